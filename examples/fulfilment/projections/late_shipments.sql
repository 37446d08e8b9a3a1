-- Late by what has happened, not by the clock: a row comes with the first event after the promised time.
CREATE MATERIALIZED VIEW late_shipments WITH (
    description = 'Orders whose last event came after they were promised', public = 'true', key = 'order_id'
  ) AS
  SELECT e.order_id, c.name AS customer, c.region, e.kind AS last_event, e.due_at, e.happened_at
  FROM last_events e
  JOIN orders o ON o.id = e.order_id
  JOIN customers c ON c.id = o.customer_id
  WHERE e.happened_at > e.due_at;
