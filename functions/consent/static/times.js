// The server writes times in UTC. This sets them in the reader's own zone, and keeps UTC beside them.

const lang = { en: "en-GB", pt: "pt-PT" }[document.documentElement.lang] ?? document.documentElement.lang;
const clock = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const day = { day: "numeric", month: "long" };
const here = new Intl.DateTimeFormat(lang, { ...day, year: "numeric", ...clock, timeZoneName: "short" });
const clockUTC = new Intl.DateTimeFormat(lang, { ...clock, timeZone: "UTC" });
const dayUTC = new Intl.DateTimeFormat(lang, { ...day, ...clock, timeZone: "UTC" });

// localTimes sets the times within root. A reader whose clock shows UTC sees no change.
export function localTimes(root) {
	for (const element of root.querySelectorAll("time[datetime]")) {
		const at = new Date(element.dateTime);
		if (Number.isNaN(at.valueOf()) || at.getTimezoneOffset() === 0) continue;
		const sameDay = at.getDate() === at.getUTCDate();
		element.textContent = `${here.format(at)} (${(sameDay ? clockUTC : dayUTC).format(at)} UTC)`;
	}
}

localTimes(document);
