//! Percentiles, and the form in which figures are told.

/// The value below which `percent` of the samples lie.
pub fn percentile(samples: &[f64], percent: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among samples"
    )]
    let rank = ((sorted.len() as f64 - 1.0) * percent / 100.0).round() as usize;
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}

pub fn figure(name: &str, value: f64, unit: &str) {
    println!("figure {name} {value:.3} {unit}");
}
