// Finds one custodian among many. Without this script the whole list is there.

const search = document.getElementById("search");
const none = document.getElementById("none");
const cards = [...document.querySelectorAll("[data-custodian]")];

// plain makes "Crédit" and "credit" alike.
const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

search.addEventListener("input", () => {
	const wanted = plain(search.value.trim());
	let left = 0;
	for (const card of cards) {
		const chosen = card.querySelector("input").checked;
		card.hidden = !chosen && !plain(card.dataset.custodian).includes(wanted);
		if (!card.hidden) left++;
	}
	none.hidden = left > 0;
});
search.addEventListener("keydown", (event) => {
	if (event.key === "Enter") event.preventDefault(); // it searches already, and must not decide
});
search.closest("[hidden]").hidden = false;
