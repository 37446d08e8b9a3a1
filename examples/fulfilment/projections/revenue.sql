CREATE MATERIALIZED VIEW revenue_per_day WITH (
    description = 'What was ordered on each day, by how far its payment is', public = 'true'
  ) AS
  SELECT CAST(o.placed_at AS DATE) AS day, coalesce(p.state, 'none') AS payment,
         count(*) AS orders, sum(t.total) AS revenue
  FROM orders o
  JOIN order_totals t ON t.order_id = o.id
  LEFT JOIN payments p ON p.order_id = o.id
  GROUP BY CAST(o.placed_at AS DATE), coalesce(p.state, 'none');
