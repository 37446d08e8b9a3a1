-- The shop's database: columns, types and keys are read from it.
CREATE TABLE customers   WITH (connector = 'postgres', url = '${STOREFRONT_DB}', table = 'public.customers');
CREATE TABLE orders      WITH (connector = 'postgres', url = '${STOREFRONT_DB}', table = 'public.orders');
CREATE TABLE order_lines WITH (connector = 'postgres', url = '${STOREFRONT_DB}', table = 'public.order_lines');

-- What the payment provider says. A message is the state of one payment: the next one with the same key
-- takes its place, and one without a value takes it away.
CREATE TABLE payments (
    order_id   BIGINT PRIMARY KEY,  -- from the message's key
    state      TEXT,                -- authorised, captured, failed
    amount     NUMERIC(12, 2),
    changed_at TIMESTAMPTZ          -- when the message was written
  ) WITH (
    connector = 'kafka', brokers = '${BROKERS:-localhost:9092}', topic = 'payments',
    format = 'json', mode = 'upsert', timestamp_column = 'changed_at'
  );

-- What the warehouse says. A message is something that happened, and each one stays. Those that can't be
-- read go to a topic of their own, with the reason; the others are not kept waiting.
CREATE TABLE shipment_events (
    order_id    BIGINT,
    kind        TEXT,               -- packed, handed_over, delivered
    happened_at TIMESTAMPTZ,
    due_at      TIMESTAMPTZ,        -- when the order was promised to be delivered
    number      BIGINT              -- the message's offset
  ) WITH (
    connector = 'kafka', brokers = '${BROKERS:-localhost:9092}', topic = 'shipments',
    format = 'json', mode = 'append', offset_column = 'number', dead_letters = 'unreadable'
  );
