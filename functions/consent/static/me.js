// Erasing from the overview: asks once more, does it, and shows the certificate.
import { busy, call, explain, focus, go, word } from "./page.js";

const dialog = document.getElementById("confirm");
const question = document.getElementById("confirm-title");
const consequence = document.getElementById("confirm-text");
let asked = null;

for (const button of document.querySelectorAll("[data-erase]")) {
	button.hidden = false;
	button.addEventListener("click", () => {
		asked = button;
		question.textContent = button.textContent;
		consequence.textContent = button.dataset.text;
		dialog.returnValue = "";
		dialog.showModal();
	});
}

dialog.addEventListener("close", () => {
	const button = asked;
	asked = null;
	if (button && dialog.returnValue === "yes") erase(button);
});

async function erase(button) {
	const card = button.closest("[data-consent]");
	const result = card.querySelector("[data-result]");
	result.classList.remove("bad", "good");
	result.textContent = word("me.erase.working");
	busy(card, true);
	try {
		const certificate = await call("POST", "/erase", { consent_id: card.dataset.consent, scope: button.dataset.erase });
		result.textContent = word("me.erase.done", { id: certificate.id });
		result.classList.add("good");
		const next = document.createElement("div");
		next.className = "acts";
		next.append(saving(certificate), reloading());
		result.append(next);
	} catch (failure) {
		busy(card, false);
		result.textContent = explain(failure);
		result.classList.add("bad");
	}
	focus(result);
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
