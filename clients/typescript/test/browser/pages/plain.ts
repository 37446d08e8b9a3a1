// A page without a framework: rows as lines, the status as an attribute.
import { connect, indexedDb } from "@deltafront/client";

const asked = new URLSearchParams(location.search);
const user = asked.get("user");
const client = connect(location.origin, {
  ...(user && { storage: indexedDb("tests"), user }),
  ...(asked.has("hidden") && { hidden: { after: 200 } }),
  notify: "frame",
  retry: { base: 50, cap: 300 },
});
const balances = client.subscribe("balances", { where: { id: { _lte: 5 } } });
const main = document.querySelector("main")!;
const seen: string[] = [];

const draw = () => {
  main.dataset.status = balances.status;
  main.dataset.client = client.status;
  main.innerHTML = "";
  for (const { id, balance } of balances.rows) {
    const line = document.createElement("p");
    line.textContent = `${id}: ${balance}`;
    main.append(line);
  }
};
balances.onChange(({ reset }) => {
  seen.push(`${reset} ${balances.size}`);
  draw();
});
balances.onStatus((status) => {
  seen.push(status);
  draw();
});
client.onStatus(draw);
Object.assign(globalThis, { seen, client });
