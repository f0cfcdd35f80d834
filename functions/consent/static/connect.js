// The login form. What is typed is sealed here and leaves the page only sealed: the inputs have no name, the form has
// no address, and the values are cleared as soon as they are sealed.
import { seal } from "./seal.js";
import { Problem, busy, call, explain, focus, go, keyFor, known, ready, word } from "./page.js";

const form = document.getElementById("login");
const again = document.getElementById("again");
const status = document.getElementById("status");
const progress = document.getElementById("progress");
const fields = form ? [...form.querySelectorAll("[data-field]")] : [];

function say(text, failed = false) {
	status.textContent = text;
	status.classList.toggle("bad", failed);
	progress.hidden = failed || text === "";
}

const groups = /[\s.\-\/\u2010-\u2015\u200b\u2060\ufeff]/gu;

// plain is what a field means: of a number, all but what groups it.
const plain = (input) => ("digits" in input.dataset ? input.value.replace(groups, "") : input.value);

// tidy takes out of a number what groups it: spaces, dots, dashes and slashes, as it stands on letters and cards. It never
// cuts anything off. A password is left as it is.
function tidy(input) {
	if (input.value !== plain(input)) input.value = plain(input);
}

// fault says what is wrong with a field's value, in words, or "". A login of another length or shape is no login of this
// bank: it is refused here, before it is sealed, and the bank never counts it.
function fault(input) {
	const value = plain(input);
	const length = [...value].length;
	if (length === 0) return word("js.empty");
	if ("digits" in input.dataset && !/^[0-9]+$/.test(value)) return word("js.digits");
	if (length > Number(input.dataset.max)) return word("js.long");
	if (length < Number(input.dataset.min)) return word("js.short");
	return "";
}

function check() {
	let first = null;
	for (const input of fields) {
		tidy(input);
		const text = fault(input);
		document.getElementById(input.id + "-fault").textContent = text;
		input.setAttribute("aria-invalid", String(text !== ""));
		if (text !== "" && !first) first = input;
	}
	if (first) focus(first);
	return first === null;
}

function clear() {
	for (const input of fields) input.value = "";
}

async function sealed() {
	if (!globalThis.crypto?.subtle) throw new Problem(0, "no_crypto");
	const key = await keyFor();
	const payload = Object.fromEntries(fields.map((input) => [input.dataset.field, input.value]));
	try {
		return await seal(key.jwk, { ...key, typ: "sluis-credential+jwe", known }, payload);
	} finally {
		for (const name of Object.keys(payload)) payload[name] = "";
	}
}

// attempt runs one way to log in, shows how far it is, and goes on to the confirmation.
async function attempt(region, first, act) {
	if (region.getAttribute("aria-busy") === "true") return;
	busy(region, true);
	say(first);
	try {
		await act();
		say(word("js.sent"));
		go("/sca");
	} catch (failure) {
		if (failure.code === "session_running") return go("/sca");
		busy(region, false);
		say(explain(failure), true);
		focus(status);
	}
}

function submit() {
	if (!check()) return;
	attempt(form, word("js.sealing"), async () => {
		const jwe = await sealed();
		clear();
		say(word("js.sending"));
		await call("POST", "/seal", { jwe });
	});
}

if (form) {
	document.getElementById("submit").addEventListener("click", submit);
	form.addEventListener("submit", (event) => event.preventDefault());
	form.addEventListener("keydown", (event) => {
		if (event.key !== "Enter" || event.target.tagName !== "INPUT") return;
		event.preventDefault();
		submit();
	});
	for (const input of fields) input.addEventListener("input", () => {
		if (input.getAttribute("aria-invalid") !== "true") return;
		document.getElementById(input.id + "-fault").textContent = fault(input);
		input.setAttribute("aria-invalid", String(fault(input) !== ""));
	});
	for (const button of form.querySelectorAll("[data-reveal]")) button.addEventListener("click", () => {
		const input = document.getElementById(button.dataset.reveal);
		const show = input.type === "password";
		input.type = show ? "text" : "password";
		button.textContent = show ? button.dataset.hide : button.dataset.show;
		button.setAttribute("aria-pressed", String(show));
	});
	// A page kept by the browser for "back" must not keep a password.
	addEventListener("pagehide", clear);
}

again?.addEventListener("click", () => {
	attempt(again.parentElement, word("js.again"), () => call("POST", "/seal/again", {}));
});
addEventListener("pageshow", (event) => {
	if (event.persisted) location.reload();
});
ready();
