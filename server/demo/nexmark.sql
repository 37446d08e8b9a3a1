-- An auction house, as the Nexmark benchmark has it: of 50 events one is a person, three are auctions,
-- the others bids. Rows are only ever added. See docs/generator.md.
CREATE TABLE person  WITH (connector = 'generator', shape = 'nexmark', seed = '{seed}', rate = '{rate}');
CREATE TABLE auction WITH (connector = 'generator', shape = 'nexmark', seed = '{seed}', rate = '{rate}');
CREATE TABLE bid     WITH (connector = 'generator', shape = 'nexmark', seed = '{seed}', rate = '{rate}');
