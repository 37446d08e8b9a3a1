-- Where the rows come from. Columns, types and keys are read from the database.
CREATE TABLE customers   WITH (connector = 'postgres', url = '${STOREFRONT_DB}', table = 'public.customers');
CREATE TABLE products    WITH (connector = 'postgres', url = '${STOREFRONT_DB}', table = 'public.products');
CREATE TABLE orders      WITH (connector = 'postgres', url = '${STOREFRONT_DB}', table = 'public.orders');
CREATE TABLE order_lines WITH (connector = 'postgres', url = '${STOREFRONT_DB}', table = 'public.order_lines');
