// A browser may keep a whole page and show it again by its back button, although the server said that it must not be
// stored. By then the visit may be over, or the consent withdrawn: such a page shows nothing, and is asked for anew.
addEventListener("pagehide", () => { document.documentElement.hidden = true; });
addEventListener("pageshow", (event) => {
	if (event.persisted) location.reload();
	else document.documentElement.hidden = false;
});
