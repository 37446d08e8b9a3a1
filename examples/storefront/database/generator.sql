-- Believable changes, for as long as anybody watches:
--
--   CALL generate(seed => 0.1, changes_per_second => 5);             -- until cancelled
--   CALL generate(seed => 0.1, changes_per_second => 0, changes => 1000);  -- as fast as it goes
--
-- Of one session and seed, the same calls make the same changes.

-- One transaction's worth of change.
CREATE PROCEDURE generate_change() LANGUAGE plpgsql AS $$
DECLARE
  dice     double precision := random();
  an_order bigint;
BEGIN
  IF dice < 0.45 THEN
    -- An order advances.
    UPDATE orders SET status = (enum_range(NULL::order_status))[1 + array_position(enum_range(NULL::order_status), status)]
      WHERE id = (SELECT id FROM orders WHERE status <> 'delivered' ORDER BY id OFFSET floor(random() * 100) LIMIT 1);
  ELSIF dice < 0.75 THEN
    -- Somebody buys: an order and its lines in one transaction.
    INSERT INTO orders (customer_id) SELECT id FROM customers ORDER BY id OFFSET floor(random() * 180) LIMIT 1
      RETURNING id INTO an_order;
    INSERT INTO order_lines (order_id, line, product_id, quantity, price)
      SELECT an_order, row_number() OVER (ORDER BY id), id, 1 + floor(random() * 5), price
      FROM products WHERE id IN (1 + floor(random() * 50), 1 + floor(random() * 50), 1 + floor(random() * 50));
    DELETE FROM orders WHERE id = an_order AND NOT EXISTS (SELECT FROM order_lines WHERE order_id = an_order);
  ELSIF dice < 0.85 THEN
    -- A price changes.
    UPDATE products SET price = greatest(1, round(price * (0.9 + random() * 0.2)::numeric, 2))
      WHERE id = (SELECT id FROM products ORDER BY id OFFSET floor(random() * 50) LIMIT 1);
  ELSIF dice < 0.92 THEN
    -- A customer moves.
    UPDATE customers SET region = (ARRAY['north','south','east','west'])[1 + floor(random() * 4)]
      WHERE id = (SELECT id FROM customers ORDER BY id OFFSET floor(random() * 200) LIMIT 1);
  ELSE
    -- The oldest delivered order is cleared away, with its lines.
    DELETE FROM orders WHERE id = (SELECT min(id) FROM orders WHERE status = 'delivered');
  END IF;
END $$;

CREATE PROCEDURE generate(seed double precision, changes_per_second double precision, changes bigint DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
  done bigint := 0;
BEGIN
  PERFORM setseed(seed);
  WHILE changes IS NULL OR done < changes LOOP
    CALL generate_change();
    COMMIT;
    done := done + 1;
    IF changes_per_second > 0 THEN
      PERFORM pg_sleep(1.0 / changes_per_second);
    END IF;
  END LOOP;
END $$;
