import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    projects: [
      { test: { name: "unit", include: ["test/unit/*.test.ts", "test/model/*.test.ts"], testTimeout: 60_000 } },
      {
        test: {
          name: "real",
          include: ["test/real/*.test.ts"],
          globalSetup: "test/real/setup.ts",
          testTimeout: 90_000,
          hookTimeout: 120_000,
          // One server for all, which tests cut off and stop.
          fileParallelism: false,
        },
      },
      {
        test: {
          name: "browser",
          include: ["test/browser/*.test.ts"],
          globalSetup: "test/real/setup.ts",
          testTimeout: 90_000,
          hookTimeout: 120_000,
          fileParallelism: false,
        },
      },
      { test: { name: "size", include: ["test/size/*.test.ts"] } },
    ],
  },
});
