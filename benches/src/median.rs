//! The figure in the middle: what is printed of several rounds.

/// Sorts the values and returns the middle one, of an even number the upper; NaN of none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_do_not_count() {
        assert_eq!(median(&mut [3.0, 1000.0, 1.0, 2.0, -1000.0]), 2.0);
        assert_eq!(median(&mut [1.0, 2.0]), 2.0);
        assert!(median(&mut []).is_nan());
    }
}
