import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/** Where Chromium is. These tests are not left out where there is none: install it, or name it in CHROMIUM. */
function program(): string {
  const places = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
  const found = places.find((place) => place && existsSync(place));
  if (!found) throw new Error("no Chromium was found: apt-get install chromium, or name it in CHROMIUM");
  return found;
}

/**
 * A page that the test itself answers has no address, so that Chromium takes it for one of the internet, which may not
 * connect to this machine. A page that this machine serves may.
 */
const LOCAL = "--disable-features=LocalNetworkAccessChecks";

export const launch = (): Promise<Browser> => chromium.launch({ executablePath: program(), args: ["--no-sandbox", LOCAL] });

/** A page's program in one file: with the package as it is published, and with the React of another folder if one is named. */
export async function bundle(entry: string, react?: string): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [here(`./pages/${entry}`)],
    bundle: true, format: "esm", target: "es2022", jsx: "automatic", write: false, logLevel: "error",
    define: { "process.env.NODE_ENV": '"development"' },
    alias: {
      "@deltafront/client": here("../../dist/index.js"),
      "@deltafront/client/react": here("../../dist/react.js"),
      ...(react && { react: here(`${react}/react`), "react-dom": here(`${react}/react-dom`) }),
    },
  });
  return outputFiles[0]!.text;
}

/** Opens a program as a page of an origin, which need not be reached for that. What goes wrong in it is in `problems`. */
export async function open(context: BrowserContext, origin: string, program: string, query = ""): Promise<{ page: Page; problems: string[] }> {
  await context.route(`${origin}/page*`, (route) =>
    route.fulfill({ contentType: "text/html", body: `<!doctype html><meta charset=utf-8><main></main><script type=module src=/program.js></script>` }));
  await context.route(`${origin}/program.js`, (route) => route.fulfill({ contentType: "text/javascript", body: program }));
  const page = await context.newPage();
  const problems: string[] = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => {
    // That a connection can't be made is said by the browser itself.
    if (message.type() === "error" && !/WebSocket connection|ERR_|favicon/.test(message.text())) problems.push(message.text());
  });
  await page.goto(`${origin}/page${query}`);
  return { page, problems };
}
