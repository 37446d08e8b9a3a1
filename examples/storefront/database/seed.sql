-- Believable rows, the same every time: `random()` is seeded.
SELECT setseed(0.42);

INSERT INTO customers (name, region)
  SELECT (ARRAY['Ann','Bob','Cleo','Dan','Eve','Finn','Gus','Hana','Ida','Jon'])[1 + floor(random() * 10)] || ' ' ||
         (ARRAY['Adler','Berg','Costa','Dietz','Ekman','Fabre','Gruber','Hansen'])[1 + floor(random() * 8)],
         (ARRAY['north','south','east','west'])[1 + floor(random() * 4)]
  FROM generate_series(1, 200);

INSERT INTO products (name, price)
  SELECT (ARRAY['oak','steel','linen','clay','glass'])[1 + floor(random() * 5)] || ' ' ||
         (ARRAY['chair','lamp','bowl','table','shelf','rug'])[1 + floor(random() * 6)] || ' no. ' || n,
         round((5 + random() * 195)::numeric, 2)
  FROM generate_series(1, 50) n;

INSERT INTO orders (customer_id, status, placed_at)
  SELECT 1 + floor(random() * 180), (ARRAY['open','paid','packed','shipped','delivered'])[1 + floor(random() * 5)]::order_status,
         timestamptz '2026-01-01' + random() * interval '300 days'
  FROM generate_series(1, 500);

INSERT INTO order_lines (order_id, line, product_id, quantity, price)
  SELECT o.id, n, p.id, 1 + floor(random() * 5), p.price
  FROM orders o
  CROSS JOIN LATERAL generate_series(1, 1 + (o.id % 4)::int) n
  JOIN products p ON p.id = 1 + (o.id * 7 + n * 13) % 50;
