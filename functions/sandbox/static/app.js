// What a page does by itself: it follows the inbox, draws itself anew when a webhook comes, copies links, and adds the
// next page of a long table. Without it every page works too; one reloads by hand.

const body = document.body;
const live = document.getElementById("live");

// A form that is shown has a number of its own against double sending; that alone is no news.
const content = (region) => region.innerHTML.replace(/(name="once" value=")[^"]*/g, "$1");

// Puts the server's newest drawing of each region in place of the old one, and keeps what the reader has open, or has
// the focus on.
async function redraw() {
	const answer = await fetch(location.pathname + location.search.replace(/[?&]done=[a-z-]+/, ""), { headers: { Accept: "text/html" } });
	if (!answer.ok) return;
	const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
	for (const region of document.querySelectorAll("[data-region]")) {
		const next = fresh.getElementById(region.id);
		if (!next || region.id === "notices" || content(next) === content(region)) continue;
		const open = [...region.querySelectorAll("details[open][id]")].map((d) => d.id);
		const focused = region.contains(document.activeElement) ? document.activeElement.id : "";
		region.replaceChildren(...next.childNodes);
		for (const id of open) document.getElementById(id)?.setAttribute("open", "");
		if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
	}
	showCopyButtons();
	const poll = fresh.body.dataset.poll;
	if (poll) body.dataset.poll = poll;
	else delete body.dataset.poll;
}

let queued = null;
let running = false;
function soon(wait) {
	clearTimeout(queued);
	queued = setTimeout(async () => {
		if (running) return soon(200);
		running = true;
		try {
			await redraw();
		} catch {
			live.textContent = "This page could not be updated. It will try again.";
		}
		running = false;
		const every = Number(body.dataset.poll);
		if (every && !document.hidden) soon(every * 1000);
	}, wait);
}

function arrived(event) {
	const news = JSON.parse(event.data);
	live.textContent = `Received ${news.type}${news.investor ? " for " + news.investor : ""}.`;
	if ("live" in body.dataset) soon(100);
	const newer = document.getElementById("newer");
	if (newer && news.type === "portfolio.updated" && news.connection === newer.dataset.connection) newer.hidden = false;
}

// A page in the background holds no connection: a browser has only six to one server.
let stream = null;
function follow() {
	if (document.hidden) {
		stream?.close();
		stream = null;
		return;
	}
	if (stream) return;
	stream = new EventSource("/events");
	stream.addEventListener("webhook", arrived);
	stream.addEventListener("open", () => { // what came after the page was drawn, and before it listened
		if ("live" in body.dataset) soon(0);
	});
}

function showCopyButtons() {
	if (!navigator.clipboard) return;
	for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
}

document.addEventListener("click", async (event) => {
	const copy = event.target.closest("[data-copy]");
	if (copy) {
		await navigator.clipboard.writeText(document.getElementById(copy.dataset.copy).value);
		live.textContent = "The link was copied.";
		copy.textContent = "Copied";
		return;
	}
	const more = event.target.closest("a[data-more]");
	if (!more || event.metaKey || event.ctrlKey || event.shiftKey) return;
	event.preventDefault();
	if (more.ariaBusy === "true") return;
	more.ariaBusy = "true";
	try {
		const answer = await fetch(more.href);
		if (!answer.ok) throw new Error(String(answer.status));
		const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
		const rows = fresh.querySelectorAll(`#${more.dataset.more} > tbody`);
		document.getElementById(more.dataset.more).append(...rows);
		live.textContent = `${rows.length} more rows.`;
		const next = fresh.getElementById("more-link");
		if (next) more.href = next.href;
		else more.remove();
		more.ariaBusy = "false";
	} catch {
		location.assign(more.href);
	}
});

if ("live" in body.dataset || document.getElementById("newer")) {
	// Not before the page is complete: until then a stream that never ends looks like a page that never loads.
	if (document.readyState === "complete") follow();
	else addEventListener("load", () => setTimeout(follow));
	document.addEventListener("visibilitychange", () => {
		follow();
		if (!document.hidden && "live" in body.dataset) soon(0);
	});
	addEventListener("pagehide", () => stream?.close());
	addEventListener("pageshow", (event) => {
		if (!event.persisted) return;
		stream = null;
		follow();
		if ("live" in body.dataset) soon(0);
	});
	if (body.dataset.poll) soon(Number(body.dataset.poll) * 1000);
}
showCopyButtons();
