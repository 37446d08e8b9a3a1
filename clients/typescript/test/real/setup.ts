import pg from "pg";
import type { TestProject } from "vitest/node";
import { eventually, PrivatePostgres, PrivateServer, SCHEMA } from "./server.js";

/**
 * What the tests need: a server of `test/real/project` in DELTAFRONT_TEST_URL, and the database that it reads, with the
 * tables of its schema, in DELTAFRONT_TEST_DB. Where these are not set both are private, and gone with the tests.
 */
export default async function setup(project: TestProject) {
  const { DELTAFRONT_TEST_URL: url, DELTAFRONT_TEST_DB: database } = process.env;
  if (url && database) {
    project.provide("url", url);
    project.provide("database", database);
    return undefined;
  }
  const postgres = await PrivatePostgres.start();
  let server: PrivateServer | undefined;
  try {
    await eventually(() => run(postgres.url, "SELECT 1").then(() => true, () => false), "Postgres");
    await run(postgres.url, SCHEMA);
    server = await PrivateServer.start(postgres.url);
  } catch (error) {
    await postgres.stop();
    throw error;
  }
  project.provide("url", `http://${server.address}`);
  project.provide("database", postgres.url);
  return async () => {
    await server.stop();
    server.remove();
    await postgres.stop();
  };
}

async function run(database: string, sql: string) {
  const client = new pg.Client(database);
  await client.connect();
  await client.query(sql).finally(() => client.end());
}

declare module "vitest" {
  interface ProvidedContext {
    url: string;
    database: string;
  }
}
