-- A view is inlined where it is used; it keeps nothing by itself.
CREATE VIEW sales AS
  SELECT o.id AS order_id, c.region, l.product_id, l.quantity, l.quantity * l.price AS amount
  FROM orders o
  JOIN customers c ON c.id = o.customer_id
  JOIN order_lines l ON l.order_id = o.id;

CREATE MATERIALIZED VIEW revenue_by_region WITH (public = 'true', description = 'Revenue, orders and the average line by region') AS
  SELECT region, count(DISTINCT order_id) AS orders, sum(amount) AS revenue, CAST(avg(amount) AS NUMERIC(12,2)) AS average_line
  FROM sales
  GROUP BY region;

CREATE MATERIALIZED VIEW top_products WITH (public = 'true', description = 'The ten best sellers', batch = '100ms') AS
  SELECT p.id, p.name, p.price, s.sold, s.revenue
  FROM (SELECT product_id, sum(quantity) AS sold, sum(amount) AS revenue FROM sales GROUP BY product_id) s
  JOIN products p ON p.id = s.product_id
  ORDER BY s.revenue DESC, p.id
  LIMIT 10;

CREATE MATERIALIZED VIEW customers_without_orders WITH (public = 'true', description = 'Who has never bought anything, or no longer has') AS
  SELECT c.id, c.name, c.region
  FROM customers c
  WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = c.id);
