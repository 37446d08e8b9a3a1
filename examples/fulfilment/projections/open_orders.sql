CREATE VIEW order_totals AS
  SELECT order_id, CAST(sum(quantity * price) AS NUMERIC(12, 2)) AS total
  FROM order_lines
  GROUP BY order_id;

-- Messages of an order have its id as their key, so all of them are in one partition, and the highest
-- offset is the last. Time would not do: two events may have the same.
CREATE VIEW last_events AS
  SELECT e.order_id, e.kind, e.happened_at, e.due_at
  FROM shipment_events e
  JOIN (SELECT order_id, max(number) AS number FROM shipment_events GROUP BY order_id) l
    ON l.order_id = e.order_id AND l.number = e.number;

CREATE MATERIALIZED VIEW open_orders WITH (
    description = 'Orders that are not delivered, with their payment and what the warehouse said last',
    public = 'true',  -- whoever connects sees every row; see docs/projects.md for policies
    key = 'id'
  ) AS
  SELECT o.id, o.status, c.name AS customer, c.region, t.total,
         coalesce(p.state, 'none') AS payment, e.kind AS last_event, e.happened_at AS last_event_at
  FROM orders o
  JOIN customers c ON c.id = o.customer_id
  JOIN order_totals t ON t.order_id = o.id
  LEFT JOIN payments p ON p.order_id = o.id
  LEFT JOIN last_events e ON e.order_id = o.id
  WHERE o.status <> 'delivered';
