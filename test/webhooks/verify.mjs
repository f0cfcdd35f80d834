// Reads cases from standard input, verifies each with the Standard Webhooks library, and writes for each what the
// library said: "" when it verified, or its error.
import { Webhook } from "standardwebhooks";

let input = "";
for await (const chunk of process.stdin) input += chunk;

const said = JSON.parse(input).map(({ secret, body, headers }) => {
  try {
    const content = new Webhook(secret).verify(body, headers);
    return JSON.stringify(content) === JSON.stringify(JSON.parse(body)) ? "" : "verified something else";
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
});
process.stdout.write(JSON.stringify(said));
