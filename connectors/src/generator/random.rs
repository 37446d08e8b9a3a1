//! Dice that fall the same way everywhere.
//!
//! SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). It is
//! written out here since what a seed gives is a promise to those who wrote it down: a library's
//! next version may well deal otherwise.

/// A sequence of numbers that its seed decides.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number of `0..bound`, each as likely as the others but for one part in 2⁶⁴ / bound; 0 when
    /// the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(bound);
        (product >> 64) as u64
    }

    /// As [`Random::below`], of a list's places.
    pub fn place(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// As [`Random::below`], for ids and amounts; 0 when the bound is not positive.
    pub fn up_to(&mut self, bound: i64) -> i64 {
        self.below(u64::try_from(bound).unwrap_or(0)).cast_signed()
    }

    /// One of a list.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.place(list.len())]
    }

    /// A number of `0.0..1.0`.
    pub fn fraction(&mut self) -> f64 {
        /// 2⁻⁵³: as many steps as an `f64` tells apart.
        const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.next() >> 11) as f64 * STEP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of seed 1234567 as the authors' `splittable64.c` has them.
    #[test]
    fn a_seed_gives_what_it_gave_its_authors() {
        let mut random = Random::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(expected.map(|_| random.next()), expected);
    }

    #[test]
    fn every_face_comes_and_no_other() {
        let mut random = Random::new(1);
        let mut seen = [0; 6];
        (0..6000).for_each(|_| seen[random.place(6)] += 1);
        assert!(seen.iter().all(|times| (850..1150).contains(times)), "{seen:?}");
        assert_eq!((random.below(0), random.up_to(-3)), (0, 0));
        assert!((0..1000).map(|_| random.fraction()).all(|part| (0.0..1.0).contains(&part)));
    }
}
