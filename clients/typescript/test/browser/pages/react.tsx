// A page of React in its strict mode, which mounts everything twice.
import { connect } from "@deltafront/client";
import { DeltafrontProvider, useProjection } from "@deltafront/client/react";
import { memo, StrictMode, useState, version } from "react";
import { createRoot } from "react-dom/client";

const client = connect(location.origin, { retry: { base: 50, cap: 300 } });
const drawn: Record<string, number> = {};

const Row = memo(({ row }: { row: { id: number; balance: string } }) => {
  drawn[row.id] = (drawn[row.id] ?? 0) + 1;
  return <p>{`${row.id}: ${row.balance}`}</p>;
});

function Balances({ most }: { most: number }) {
  // Made anew with each drawing, and the same all the while.
  const { rows, status, error } = useProjection<{ id: number; balance: string }>("balances", { where: { id: { _lte: most } } });
  return (
    <section data-status={status} data-error={error?.code}>
      {rows.map((row) => <Row key={row.id} row={row} />)}
    </section>
  );
}

/** Both sides of every booking, drawn at once. */
function Sum() {
  const { rows: balances } = useProjection<{ id: number; balance: string }>("balances");
  const { rows: booked } = useProjection<{ account: number; balance: string }>("booked");
  const difference = booked.map(({ balance }, i) => Number(balance) - Number(balances[i]?.balance)).filter((it) => it !== 0);
  if (balances.length > 0 && booked.length > 0 && difference.length > 0) Object.assign(globalThis, { half: true });
  return <footer>{booked.length}</footer>;
}

function App() {
  const [most, setMost] = useState(3);
  const [isShown, setShown] = useState(true);
  const [, redraw] = useState(0);
  return (
    <>
      <button id="more" onClick={() => setMost(5)} />
      <button id="redraw" onClick={() => redraw((n) => n + 1)} />
      <button id="toggle" onClick={() => setShown(!isShown)} />
      {isShown && <Balances most={most} />}
      {isShown && <Sum />}
    </>
  );
}

Object.assign(globalThis, { drawn, reactVersion: version });
createRoot(document.querySelector("main")!).render(
  <StrictMode>
    <DeltafrontProvider client={client}>
      <App />
    </DeltafrontProvider>
  </StrictMode>,
);
