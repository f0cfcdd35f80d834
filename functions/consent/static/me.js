// Erasing from the overview: asks once more, does it, and shows the certificate.
import { busy, call, explain, focus, go, word } from "./page.js";
import { localTimes } from "./times.js";

const dialog = document.getElementById("confirm");
const question = document.getElementById("confirm-title");
const consequence = document.getElementById("confirm-text");
let asked = null;

ready(document);

// ready makes the buttons below root work, and sets its times.
function ready(root) {
	for (const button of root.querySelectorAll("[data-erase]")) {
		button.hidden = false;
		button.addEventListener("click", () => {
			asked = button;
			question.textContent = button.textContent;
			consequence.textContent = button.dataset.text;
			dialog.returnValue = "";
			dialog.showModal();
		});
	}
	localTimes(root);
}

dialog.addEventListener("close", () => {
	const button = asked;
	asked = null;
	if (button && dialog.returnValue === "yes") erase(button);
});

async function erase(button) {
	const card = button.closest("[data-consent]");
	let result = told(card, word("me.erase.working"));
	busy(card, true);
	try {
		const certificate = await call("POST", "/erase", { consent_id: card.dataset.consent, scope: button.dataset.erase });
		const fresh = await present(card);
		result = told(fresh ?? card, word("me.erase.done", { id: certificate.id }), "good");
		const next = document.createElement("div");
		next.className = "acts";
		next.append(saving(certificate));
		if (!fresh) next.append(reloading());
		result.append(next);
	} catch (failure) {
		busy(card, false);
		result = told(card, explain(failure), "bad");
	}
	focus(result);
}

function told(card, text, kind) {
	const result = card.querySelector("[data-result]");
	result.classList.remove("bad", "good");
	if (kind) result.classList.add(kind);
	result.textContent = text;
	return result;
}

// present asks for the page anew and puts the card's present state in place of the old one: what is erased has no button
// any more, and its certificate is listed. XMLHttpRequest makes a document of an answer without a string becoming
// markup, which the content policy forbids. It returns null if that did not work.
function present(card) {
	return new Promise((resolve) => {
		const request = new XMLHttpRequest();
		request.open("GET", location.href);
		request.responseType = "document";
		request.addEventListener("loadend", () => {
			const fresh = request.status === 200 ? request.response?.querySelector(`[data-consent="${CSS.escape(card.dataset.consent)}"]`) : null;
			if (!fresh) return resolve(null);
			const adopted = document.adoptNode(fresh);
			card.replaceWith(adopted);
			ready(adopted);
			resolve(adopted);
		});
		request.send();
	});
}

// saving is a link by which the investor keeps the signed certificate.
function saving(certificate) {
	const link = document.createElement("a");
	link.href = URL.createObjectURL(new Blob([JSON.stringify(certificate, null, 2)], { type: "application/json" }));
	link.download = certificate.id + ".json";
	link.className = "button plain";
	link.textContent = word("me.erase.save");
	return link;
}

function reloading() {
	const button = document.createElement("button");
	button.type = "button";
	button.className = "plain";
	button.textContent = word("me.erase.reload");
	button.addEventListener("click", () => go("/me"));
	return button;
}
