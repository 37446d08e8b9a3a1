-- The sample shop.
CREATE TYPE order_status AS ENUM ('open', 'paid', 'packed', 'shipped', 'delivered');

CREATE TABLE customers (
  id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name   text NOT NULL,
  region text NOT NULL
);

CREATE TABLE products (
  id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name  text NOT NULL,
  price numeric(10,2) NOT NULL
);

CREATE TABLE orders (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  customer_id bigint NOT NULL REFERENCES customers,
  status      order_status NOT NULL DEFAULT 'open',
  placed_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE order_lines (
  order_id   bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
  line       int NOT NULL,
  product_id bigint NOT NULL REFERENCES products,
  quantity   int NOT NULL,
  price      numeric(10,2) NOT NULL,
  PRIMARY KEY (order_id, line)
);
CREATE INDEX ON orders (customer_id);
CREATE INDEX ON order_lines (product_id);
