-- A shop that is made up as it goes: customers buy, orders advance, prices change. Columns and keys
-- come from the shape. Another seed is another shop; a higher rate (transactions a second) a busier
-- one. Tables that say the same are of one shop: see docs/generator.md.
CREATE TABLE customers   WITH (connector = 'generator', shape = 'storefront', seed = '{seed}', rate = '{rate}');
CREATE TABLE products    WITH (connector = 'generator', shape = 'storefront', seed = '{seed}', rate = '{rate}');
CREATE TABLE orders      WITH (connector = 'generator', shape = 'storefront', seed = '{seed}', rate = '{rate}');
CREATE TABLE order_lines WITH (connector = 'generator', shape = 'storefront', seed = '{seed}', rate = '{rate}');
