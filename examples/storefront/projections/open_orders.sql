CREATE MATERIALIZED VIEW open_orders WITH (
    description = 'What the dispatcher sees: every order that is not yet delivered',
    public = 'true',  -- whoever connects sees every row; see docs/projects.md for policies
    key = 'id'  -- without it the key would be all that is grouped by
  ) AS
  SELECT o.id, o.status, c.name AS customer, c.region, o.placed_at,
         count(*) AS lines, sum(l.quantity * l.price) AS total
  FROM orders o
  JOIN customers c ON c.id = o.customer_id
  JOIN order_lines l ON l.order_id = o.id
  WHERE o.status <> 'delivered'
  GROUP BY o.id, o.status, c.name, c.region, o.placed_at;
