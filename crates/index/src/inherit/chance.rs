//! How likely a random sample meets a hidden change.

/// Logarithm of a probability that no float tells from 0 any more in `1 - p`.
const NEGLIGIBLE_LN: f64 = -50.0;

/// Probability that `sampled` of `unchanged` pages, drawn without replacement and all sets being
/// equally likely, hold at least one of `hidden` changed ones: the hypergeometric
/// `1 - C(unchanged - hidden, sampled) / C(unchanged, sampled)`.
///
/// Exact but for the rounding of floats, about one part in 10¹²; small probabilities are as exact as
/// large ones. `hidden` and `sampled` count at most as `unchanged`.
pub fn chance_of_catching(unchanged: u64, hidden: u64, sampled: u64) -> f64 {
    let (hidden, sampled) = (hidden.min(unchanged), sampled.min(unchanged));
    // C(n-h, s) / C(n, s) is symmetric in h and s: the product of (n - more - i) / (n - i) for i
    // below the lesser of them.
    let (less, more) = (hidden.min(sampled), hidden.max(sampled));
    if less == 0 {
        return 0.0;
    }
    if less > unchanged - more {
        return 1.0;
    }
    let mut missed_ln = 0.0;
    for i in 0..less {
        missed_ln += (-(more as f64 / (unchanged - i) as f64)).ln_1p();
        if missed_ln < NEGLIGIBLE_LN {
            break;
        }
    }
    -f64::exp_m1(missed_ln)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C(n, k) without rounding.
    fn choose(n: u128, k: u128) -> u128 {
        if k > n {
            return 0;
        }
        (0..k).fold(1, |product, i| product * (n - i) / (i + 1))
    }

    #[test]
    fn it_is_the_hypergeometric_formula() {
        for n in 0..=40_u64 {
            for h in 0..=n {
                for s in 0..=n {
                    let (big_n, big_h, big_s) = (u128::from(n), u128::from(h), u128::from(s));
                    let all = choose(big_n, big_s);
                    let caught = all - choose(big_n - big_h, big_s);
                    let exact = caught as f64 / all as f64;
                    let found = chance_of_catching(n, h, s);
                    assert!(
                        (found - exact).abs() <= 1e-12 * exact,
                        "n {n}, h {h}, s {s}: {found} {exact}"
                    );
                }
            }
        }
    }

    /// The table in the module's documentation.
    #[test]
    fn the_published_table_is_true() {
        let gib = 1 << 18_u64;
        let table = [
            (gib, [0.0039, 0.038, 0.32, 0.980, 1.0]),
            (64 * gib, [0.0010, 0.010, 0.095, 0.63, 0.99995]),
            (1024 * gib, [0.0010, 0.010, 0.095, 0.63, 0.99995]),
        ];
        for (n, row) in table {
            for (h, published) in [1, 10, 100, 1000, 10_000].into_iter().zip(row) {
                let found = chance_of_catching(n, h, super::super::sample_size(n));
                let rounding = if published > 0.99 {
                    5e-6
                } else {
                    published * 0.02
                };
                assert!(
                    (found - published).abs() <= rounding,
                    "n {n}, h {h}: {found}"
                );
            }
        }
    }

    #[test]
    fn a_rare_chance_keeps_its_digits_and_a_huge_volume_its_speed() {
        let rare = chance_of_catching(1 << 40, 1, 64);
        assert!(
            (rare / (64.0 / (1_u64 << 40) as f64) - 1.0).abs() < 1e-12,
            "{rare}"
        );
        let huge = chance_of_catching(1 << 40, 1 << 39, 1 << 30);
        assert!((huge - 1.0).abs() < 1e-15);
    }
}
