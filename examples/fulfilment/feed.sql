-- The way back: what the payment provider and the warehouse listen to. The topic has a message for each
-- change of a row, by its key, and one without a value when the row is gone. A restart writes what differs.
CREATE TABLE order_feed (id BIGINT PRIMARY KEY, status TEXT, total NUMERIC(12, 2))
  WITH (connector = 'kafka', brokers = '${BROKERS:-localhost:9092}', topic = 'orders', format = 'json');

INSERT INTO order_feed
  SELECT o.id, o.status, t.total
  FROM orders o
  JOIN order_totals t ON t.order_id = o.id;
