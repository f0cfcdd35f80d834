// The confirmation at the bank: follows the session live and shows what the bank asks. The code is sealed here before
// it is sent. The server's state decides what is on the page; this script only draws it.
import { seal } from "./seal.js";
import { Problem, busy, call, explain, focus, go, keyFor, known, ready, term, word } from "./page.js";

const at = (id) => document.getElementById(id);
const stages = { wait: at("wait"), select: at("select"), code: at("code"), decoupled: at("decoupled"), elsewhere: at("elsewhere") };
const status = at("status");
const answer = at("answer");
const pages = { consent: "/consent", connect: "/connect", done: "/done", paused: "/done", ended: "/done" };

let state = null; // the last state drawn
let shown = ""; // which stage, of which challenge
let working = false; // an answer of ours is under way
let left = false; // on the way to another page
let drift = 0; // server's clock minus ours, in milliseconds
let warned = false;

function say(text, kind = "") {
	if (status.textContent !== text) status.textContent = text;
	status.className = "status " + kind;
}

function text(id, value, values) {
	const element = at(id);
	const filled = values ? value(values) : value;
	if (element.textContent !== filled) element.textContent = filled;
	element.hidden = filled === "";
}

// moment reads a time as the server writes it: RFC 3339, or seconds since 1970.
const moment = (value) => (typeof value === "number" ? value * 1000 : Date.parse(value));

function draw(next) {
	if (left) return;
	state = next;
	if (next.now !== undefined) drift = moment(next.now) - Date.now();
	if (pages[next.page]) {
		left = true;
		closeLive();
		return go(pages[next.page]);
	}
	const challenge = next.page === "sca" ? next.challenge : null;
	drawWait(next);
	if (challenge) drawChallenge(challenge);
	show(next.elsewhere ? "elsewhere" : stageOf(challenge), challenge);
	drawClock();
}

// drawSteps moves on from the confirmation to the reading. The server draws the bar as it is before.
function drawSteps(reading) {
	const [confirming, following] = [...document.querySelectorAll(".steps li")].slice(2);
	if (!reading || !following || following.hasAttribute("aria-current")) return;
	confirming.className = "past";
	confirming.removeAttribute("aria-current");
	confirming.querySelector(".hush").textContent = ": " + word("step.past");
	following.className = "now";
	following.setAttribute("aria-current", "step");
	following.querySelector(".hush").textContent = ": " + word("step.now");
}

function stageOf(challenge) {
	if (!challenge) return "wait";
	if (challenge.state === "method_selection") return "select";
	return challenge.flow === "code" ? "code" : "decoupled";
}

function show(stage, challenge) {
	for (const [name, element] of Object.entries(stages)) element.hidden = name !== stage;
	answer.hidden = !challenge;
	const now = challenge ? `${stage} ${challenge.id} ${challenge.method}` : stage;
	if (now === shown) return;
	const first = shown === "";
	shown = now;
	warned = false;
	at("other").open = false;
	if (stage === "code") at("tan").value = "";
	if (stage === "code") focus(at("tan"));
	else if (!first) focus(stages[stage].querySelector("h2"));
}

function drawWait(next) {
	const records = next.session?.records ?? 0;
	const reading = records > 0 || next.session?.cleared === true;
	drawSteps(reading);
	text("wait-title", reading ? word("sca.reading") : at("wait").dataset.connecting);
	text("wait-text", word(reading ? "sca.reading.text" : "sca.connecting.text"));
	text("records", records > 0 ? word("sca.records", { count: records }) : "");
}

function drawChallenge(challenge) {
	const kind = challenge.methods?.find((m) => m.id === challenge.method)?.kind ?? "other";
	const over = challenge.state === "expired";
	for (const stage of ["code", "decoupled"]) {
		text(stage + "-do", term("method", kind, ".do"));
		text(stage + "-destination", challenge.destination ? word("sca.destination", { destination: challenge.destination }) : "");
		text(stage + "-bank", challenge.text ? word("sca.bank") + " " + challenge.text : "");
		picture(at(stage + "-image"), challenge.image_url);
	}
	text("tan-label", challenge.digits ? word("sca.code.digits", { digits: challenge.digits }) : word("sca.code.label"));
	at("tan").maxLength = (challenge.digits || 20) * 2; // room for spaces, as banks print codes in groups
	at("tan").inputMode = challenge.digits ? "numeric" : "text";
	at("confirm").disabled = working || over;
	drawFault(challenge, over);
	drawMethods(challenge);
	at("renew").hidden = at("renew-note").hidden = challenge.state === "method_selection";
}

// drawFault says what the bank thought of the last answer. tries_left is the bank's count of what remains.
function drawFault(challenge, over) {
	if (working) return;
	if (over) return say(word("sca.expired"), "bad");
	if (challenge.state !== "rejected") return;
	say(challenge.tries_left > 0 ? word("sca.wrong", { count: challenge.tries_left }) : word("sca.wrong"), "bad");
}

function picture(image, address) {
	const wanted = address ?? "";
	if (image.dataset.address === wanted) return;
	image.dataset.address = wanted;
	image.hidden = wanted === "";
	if (wanted) image.src = wanted;
	else image.removeAttribute("src");
}

function drawMethods(challenge) {
	const methods = challenge.methods ?? [];
	fill(at("methods"), methods);
	fill(at("others"), methods.filter((m) => m.id !== challenge.method));
	at("other").hidden = challenge.state === "method_selection" || methods.length < 2;
}

function fill(list, methods) {
	const ids = methods.map((m) => m.id).join(" ");
	if (list.dataset.ids === ids) return;
	list.dataset.ids = ids;
	list.replaceChildren(...methods.map((method) => {
		const item = document.createElement("li");
		const button = document.createElement("button");
		button.type = "button";
		button.className = "choice";
		button.textContent = term("method", method.kind);
		button.addEventListener("click", () => send("select", word("js.working"), { method: method.id }));
		item.append(button);
		return item;
	}));
}

// drawClock counts down to answer_by by the server's clock. Only the last minute is announced.
function drawClock() {
	const clock = at("clock");
	const challenge = state?.page === "sca" ? state.challenge : null;
	if (!challenge?.answer_by || challenge.state === "expired") return void (clock.textContent = "");
	const seconds = Math.max(0, Math.ceil((moment(challenge.answer_by) - Date.now() - drift) / 1000));
	const time = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
	clock.textContent = seconds > 0 ? word("sca.left", { time }) : word("sca.over");
	clock.classList.toggle("soon", seconds < 60);
	if (seconds < 60 && seconds > 0 && !warned) {
		warned = true;
		at("alarm").textContent = word("sca.minute");
	}
}

// send gives one answer and draws the state that comes back.
async function send(kind, text, more = {}) {
	if (working || !state?.challenge) return;
	working = true;
	busy(answer, true);
	say(text);
	try {
		const sealed = more.code === undefined ? {} : { sealed_code: await sealCode(more.code) };
		const method = more.method ? { method: more.method } : {};
		const next = await call("POST", "/challenge/answer", { challenge_id: state.challenge.id, kind, ...method, ...sealed });
		finish("");
		draw(next);
		if (next.challenge?.state === "rejected" && kind === "code") focus(at("tan"));
	} catch (failure) {
		finish(explain(failure), "bad");
		if (failure instanceof Problem && failure.status !== 0) refresh();
	}
}

function finish(text, kind) {
	working = false;
	busy(answer, false);
	say(text, kind);
}

async function sealCode(code) {
	const sub = state.challenge.id;
	const key = await keyFor(sub);
	return seal(key.jwk, { ...key, sub, typ: "sluis-code+jwe", known }, code);
}

function confirm() {
	const input = at("tan");
	const code = input.value.replace(/\s/g, "");
	if (code === "") {
		say(word("js.empty"), "bad");
		return focus(input);
	}
	if (input.inputMode === "numeric" && !/^[0-9]+$/.test(code)) {
		say(word("js.digits"), "bad");
		return focus(input);
	}
	input.value = "";
	send("code", word("sca.code.checking"), { code });
}

at("confirm").addEventListener("click", confirm);
at("tan").addEventListener("keydown", (event) => {
	if (event.key === "Enter") confirm();
});
at("codeform").addEventListener("submit", (event) => event.preventDefault());
at("renew").addEventListener("click", () => send("renew", word("sca.renewing")));
at("cancel").addEventListener("click", () => send("cancel", word("sca.cancelling")));
addEventListener("pagehide", () => {
	at("tan").value = "";
	closeLive(); // a page that the browser keeps must not hold one of its six connections to us
});

// Following the state: live events first; if they keep failing, asking every few seconds.
let live = null;
let timer = 0;
let failures = 0;

function openLive() {
	live = new EventSource("/challenge/events");
	live.addEventListener("state", (event) => {
		failures = 0;
		if (!working) draw(JSON.parse(event.data));
	});
	live.addEventListener("error", () => {
		failures++;
		if (failures < 3 && live.readyState !== EventSource.CLOSED) return;
		closeLive();
		say(word("sca.slow"));
		ask();
	});
}

function closeLive() {
	live?.close();
	live = null;
	clearTimeout(timer);
}

// refresh fetches the state once.
async function refresh() {
	try {
		const next = await call("GET", "/challenge/state");
		if (!working) draw(next);
		return true;
	} catch (failure) {
		if (failure instanceof Problem && failure.status === 401) {
			left = true;
			closeLive();
			go("/done");
		}
		return false;
	}
}

// ask is the way without live events. For an approval elsewhere it also has the server ask the bank, as the open event
// stream would, at the bank's own interval.
async function ask() {
	if (left) return;
	const challenge = state?.page === "sca" ? state.challenge : null;
	const decoupled = challenge?.flow === "decoupled" && challenge.state === "awaiting_user";
	if (decoupled && !working) {
		try {
			const next = await call("POST", "/challenge/answer", { challenge_id: challenge.id, kind: "poll" });
			if (!working) draw(next);
		} catch {
			await refresh();
		}
	} else {
		await refresh();
	}
	if (!left) timer = setTimeout(ask, 1000 * Math.max(decoupled ? challenge.poll_seconds || 3 : 2, 2));
}

ready();
if (!(await refresh()) && !left) say(word("problem.offline"), "bad");
if (!left) {
	if (globalThis.EventSource) openLive();
	else ask();
	setInterval(drawClock, 1000);
}
