-- What the tests of the TypeScript client read. test/real/project/database/schema.sql makes the tables.
CREATE TABLE accounts WITH (connector = 'postgres', url = '${DELTAFRONT_TEST_DB}', table = 'public.accounts');
CREATE TABLE bookings WITH (connector = 'postgres', url = '${DELTAFRONT_TEST_DB}', table = 'public.bookings');
CREATE TABLE samples  WITH (connector = 'postgres', url = '${DELTAFRONT_TEST_DB}', table = 'public.samples');
CREATE TABLE labels   WITH (connector = 'postgres', url = '${DELTAFRONT_TEST_DB}', table = 'public.labels');

CREATE MATERIALIZED VIEW balances WITH (public = 'true') AS SELECT id, owner, balance FROM accounts;

-- The same sum by another road: a transaction changes both, and who sees one has to see the other.
CREATE MATERIALIZED VIEW booked WITH (public = 'true', key = 'account') AS
  SELECT account, sum(amount) AS balance FROM bookings GROUP BY account;

-- Without a key: an owner stands there as often as it has accounts.
CREATE MATERIALIZED VIEW owners WITH (public = 'true') AS SELECT owner FROM accounts;

CREATE MATERIALIZED VIEW every_type WITH (public = 'true') AS SELECT * FROM samples;

CREATE MATERIALIZED VIEW mine AS SELECT id, owner, region, balance FROM accounts;
CREATE POLICY own   ON mine USING (owner = claim('sub'));
CREATE POLICY staff ON mine TO staff USING (region = ANY (claim('regions')));

-- Nothing of it is for others, not even its columns.
CREATE MATERIALIZED VIEW audit AS SELECT id, account, amount FROM bookings;
CREATE POLICY all_rows ON audit USING (true);
GRANT SELECT ON audit TO staff;

-- Its key is only what it is declared to be: two rows may have it, and then it can't be served.
CREATE MATERIALIZED VIEW labelled WITH (public = 'true', key = 'label') AS SELECT label, id FROM labels;
