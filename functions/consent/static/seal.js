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

const members = "alg e key_ops kid kty n use";

// The refusal of a key: nothing was encrypted to it.
function foreign() {
	return Object.assign(new Error("sealing: the key is not the one that this page was told of"), { code: "key_foreign" });
}

// trusted gives jwk, made anew of what may be in it, if it is one of the keys that the page knows; or else it throws.
// The thumbprint (RFC 7638) of type, exponent and modulus decides, and not what the key calls itself. 683 characters
// that begin with a set bit are 4096 bits.
async function trusted(jwk, known) {
	const { kty, n, e, kid, alg, use, key_ops: ops } = jwk ?? {};
	const shaped = Object.keys(jwk ?? {}).sort().join(" ") === members && kty === "RSA" && alg === "RSA-OAEP-256" && use === "enc" &&
		Array.isArray(ops) && ops.length === 1 && ops[0] === "encrypt" && e === "AQAB" &&
		typeof n === "string" && /^[g-z0-9_-][A-Za-z0-9_-]{682}$/.test(n);
	if (!shaped || !Array.isArray(known)) throw foreign();
	const digest = await crypto.subtle.digest("SHA-256", text.encode(`{"e":"${e}","kty":"RSA","n":"${n}"}`));
	const thumbprint = base64url(new Uint8Array(digest));
	if (kid !== thumbprint || !known.includes(thumbprint)) throw foreign();
	return { kty: "RSA", n, e, kid: thumbprint, alg: "RSA-OAEP-256", use: "enc", key_ops: ["encrypt"] };
}

// What is sealed is filled up to whole blocks of these sizes, so that its length tells nothing.
const blocks = { "sluis-credential+jwe": 256, "sluis-code+jwe": 64 };

// padded is secret as bytes, a byte 0x80, and zeros up to the end of the block (ISO/IEC 7816-4).
function padded(secret, block) {
	const bare = text.encode(secret);
	try {
		const full = new Uint8Array((Math.floor(bare.length / block) + 1) * block);
		full.set(bare);
		full[bare.length] = 0x80;
		return full;
	} finally {
		bare.fill(0);
	}
}

/**
 * Seals payload to jwk, an RSA-4096 public key with alg RSA-OAEP-256, which must be one of known: the thumbprints of
 * our keys (RFC 7638), that the page has from another function than the one that hands out the key. Any other key is
 * refused with an Error whose code is "key_foreign", before anything is encrypted.
 *
 * typ is "sluis-credential+jwe" (payload: an object of field names and strings) or "sluis-code+jwe" (payload: a
 * string). sub is the connection or challenge it is for; cid
 * (of a credential only), gen and nonce are what the server gave for this one sealing. now is the time in seconds since 1970; give the
 * server's where it is known, for a device's clock may be wrong.
 *
 * Resolves to the compact JWE. Buffers that held the secret are overwritten; JavaScript's own strings cannot be, so
 * the caller empties its input fields.
 */
export async function seal(jwk, { typ, sub, cid, gen, nonce, known, now = Date.now() / 1000 }, payload) {
	if (!globalThis.crypto?.subtle) throw new Error("sealing: this page must be opened over HTTPS");
	const ours = await trusted(jwk, known);
	const header = { alg: "RSA-OAEP-256", enc: "A256GCM", kid: ours.kid, typ, iat: Math.floor(now), sub, cid, gen, nonce };
	const protectedHeader = base64url(text.encode(JSON.stringify(header)));
	const plain = padded(typeof payload === "string" ? payload : JSON.stringify(payload), blocks[typ]);
	const cek = crypto.getRandomValues(new Uint8Array(32));
	try {
		const publicKey = await crypto.subtle.importKey("jwk", ours, { name: "RSA-OAEP", hash: "SHA-256" }, false, ["encrypt"]);
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
