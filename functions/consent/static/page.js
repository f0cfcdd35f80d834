// What every page's script shares: the words of the visitor's language, calls to our own server, and telling people
// what happens. Nothing here prints to the console, and text is set as text, never as markup.

const main = document.getElementById("main");
const words = JSON.parse(main.dataset.words || "{}");
const lang = document.documentElement.lang;
const rules = new Intl.PluralRules(lang);

// word is the text of key, with {name} filled in from values. If the values have a count, the key's plural is taken.
export function word(key, values = {}) {
	if ("count" in values) {
		const form = key + "." + rules.select(values.count);
		key = form in words ? form : key + ".other";
		values = { ...values, count: new Intl.NumberFormat(lang).format(values.count) };
	}
	return (words[key] ?? "").replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
}

// term is the word of one of a family's members, or of the family's "other".
export function term(family, member, suffix = "") {
	return words[`${family}.${member}${suffix}`] ?? word(`${family}.other${suffix}`);
}

// call asks our own server. It throws a Problem if the answer is one, or if there is none.
export async function call(method, path, body) {
	let answer;
	try {
		answer = await fetch(path, {
			method, cache: "no-store", credentials: "same-origin", redirect: "error",
			headers: body === undefined ? {} : { "Content-Type": "application/json" },
			body: body === undefined ? undefined : JSON.stringify(body),
		});
	} catch {
		throw new Problem(0, "offline");
	}
	const value = await answer.json().catch(() => ({}));
	if (!answer.ok) throw new Problem(answer.status, String(value.code ?? ""));
	return value;
}

// Problem is an answer that says no: its HTTP status and stable code. It never holds what was sent.
export class Problem extends Error {
	constructor(status, code) {
		super(code);
		this.status = status;
		this.code = code;
	}
}

const statuses = { 0: "offline", 400: "input", 401: "visit", 403: "consent", 404: "state", 409: "state", 410: "state", 413: "input", 422: "input", 429: "pace", 502: "unavailable", 503: "unavailable", 504: "unavailable" };
const codes = {
	jwe_stale: "stale", jwe_future: "stale", sealing_over: "stale", sealing_used: "stale", credentials_refused: "refused", access_resting: "resting",
	access_waits: "waits", challenges_spent: "enough", no_crypto: "crypto", key_foreign: "key", jwe_kid: "key", visit_superseded: "newer", confirmation_needed: "confirm",
};

// explain puts a failure into plain words.
export function explain(failure) {
	const status = failure instanceof Problem ? statuses[failure.status] : undefined;
	const name = codes[failure.code] ?? status ?? "other";
	return words["problem." + name] ?? word("problem.other");
}

// known are the thumbprints of the keys that may be sealed to, as the page itself has them.
export const known = (main.dataset.keys ?? "").split(" ");

// keyFor asks for the key to seal to, one of those that the page knows, and for what to seal as what: a login, or the
// code for a challenge. It is good for one sealing.
export function keyFor(challenge) {
	const of = challenge === undefined ? "" : "&challenge=" + encodeURIComponent(challenge);
	return call("GET", "/seal/key?kids=" + known.join(",") + of);
}

// go leads to another of our pages in the same language.
export function go(path) {
	location.assign(path + main.dataset.lang);
}

// focus moves keyboard and screen reader to what has changed.
export function focus(element) {
	if (!element.matches("button, input, a[href], summary, dialog")) element.tabIndex = -1;
	element.focus({ preventScroll: false });
}

// ready is the last thing that a page's script does: only then can be pressed what needs it, and the hint goes that the page
// shows where a script is late or blocked.
export function ready() {
	document.getElementById("late")?.remove();
	for (const button of document.querySelectorAll("[data-script]")) button.disabled = false;
}

// busy locks a region while something is under way, so that nothing is sent twice.
export function busy(region, yes) {
	region.setAttribute("aria-busy", String(yes));
	for (const control of region.querySelectorAll("button, input")) control.disabled = yes;
}
