// Compiles src to dist: one module for one, so that bundlers take what is used.
import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";

process.chdir(new URL("..", import.meta.url).pathname);
rmSync("dist", { recursive: true, force: true });
execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "."], { stdio: "inherit" });
