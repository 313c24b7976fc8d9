// Where the server is that the caller of a test program has started.

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: these programs are started by the tests crate`);
  return value;
}

/** `{ http, ws, key, secret }` of the server under test. */
export function serverUnderTest() {
  const url = required('ZYNK_URL');
  return {
    http: url,
    ws: url.replace(/^http/, 'ws'),
    key: process.env.ZYNK_API_KEY ?? 'devkey',
    secret: process.env.ZYNK_API_SECRET ?? 'secret',
  };
}

/** Runs a test program: closes what it opened, prints the figures, exits 0 or, on any error, 1. */
export async function program(main) {
  const opened = [];
  const using = (resource) => {
    opened.push(resource);
    return resource;
  };
  let code = 0;
  try {
    await main(using);
  } catch (error) {
    console.error(error.stack ?? String(error));
    code = 1;
  }
  for (const resource of opened.reverse()) {
    await Promise.resolve(resource.close()).catch((error) => console.error(`closing: ${error}`));
  }
  process.exit(code);
}
