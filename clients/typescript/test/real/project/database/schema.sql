CREATE TABLE accounts (id bigint PRIMARY KEY, owner text NOT NULL, region text NOT NULL, balance numeric(12, 2) NOT NULL);
CREATE TABLE bookings (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, account bigint NOT NULL, amount numeric(12, 2) NOT NULL);
CREATE TABLE samples (
  id bigint PRIMARY KEY, exact numeric(30, 10), float8 double precision, flag boolean, label text, at timestamptz, day date, list int[]
);
CREATE TABLE labels (id bigint PRIMARY KEY, label text NOT NULL);
INSERT INTO labels VALUES (1, 'one'), (2, 'two');
INSERT INTO accounts SELECT n, (ARRAY['ann', 'bob', 'eve'])[1 + n % 3], (ARRAY['eu', 'us'])[1 + n % 2], 0 FROM generate_series(1, 20) n;
INSERT INTO bookings (account, amount) SELECT n, 0 FROM generate_series(1, 20) n;
