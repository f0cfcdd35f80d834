// Gate 1: closes what the investor types, in the browser, to the public key in the page. What leaves the page is a
// compact JWE (RFC 7516) that only extraction can open. WebCrypto only, no dependency.
// The other side is shared/envelope; the header below is the only one it lets pass.

const text = new TextEncoder();

/** base64url without padding (RFC 7515, section 2) of a Uint8Array. */
export function base64url(bytes) {
	let binary = "";
	for (const b of bytes) binary += String.fromCharCode(b);
	return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/**
 * Seals payload to jwk, an RSA-4096 public key with alg RSA-OAEP-256.
 *
 * typ is "sluis-credential+jwe" (payload: an object of field names and strings) or "sluis-code+jwe" (payload: a
 * string). sub is the connection or challenge it is for. now is the time in seconds since 1970; give the
 * server's where it is known, for a device's clock may be wrong.
 *
 * Resolves to the compact JWE. Buffers that held the secret are overwritten; JavaScript's own strings cannot be, so
 * the caller empties its input fields.
 */
export async function seal(jwk, { typ, sub, now = Date.now() / 1000 }, payload) {
	if (!globalThis.crypto?.subtle) throw new Error("sealing: this page must be opened over HTTPS");
	const header = { alg: "RSA-OAEP-256", enc: "A256GCM", kid: jwk.kid, typ, iat: Math.floor(now), sub };
	const protectedHeader = base64url(text.encode(JSON.stringify(header)));
	const plain = text.encode(typeof payload === "string" ? payload : JSON.stringify(payload));
	const cek = crypto.getRandomValues(new Uint8Array(32));
	try {
		const publicKey = await crypto.subtle.importKey("jwk", jwk, { name: "RSA-OAEP", hash: "SHA-256" }, false, ["encrypt"]);
		const contentKey = await crypto.subtle.importKey("raw", cek, "AES-GCM", false, ["encrypt"]);
		const wrapped = await crypto.subtle.encrypt({ name: "RSA-OAEP" }, publicKey, cek);
		const iv = crypto.getRandomValues(new Uint8Array(12));
		const additionalData = text.encode(protectedHeader);
		const closed = new Uint8Array(await crypto.subtle.encrypt({ name: "AES-GCM", iv, additionalData, tagLength: 128 }, contentKey, plain));
		const tag = closed.length - 16;
		return [
			protectedHeader,
			base64url(new Uint8Array(wrapped)),
			base64url(iv),
			base64url(closed.subarray(0, tag)),
			base64url(closed.subarray(tag)),
		].join(".");
	} finally {
		plain.fill(0);
		cek.fill(0);
	}
}
