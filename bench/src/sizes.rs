//! Message sizes: one size, a range, or sizes with weights.
//!
//! Sizes are not random: message `i` of `n` has the size at `(i + 1/2) / n` of the distribution, so
//! that even a rare size occurs as often as its weight says.

/// The largest payload (bytes).
pub const SIZE_MAX: u32 = 1 << 26;

/// Payload sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sizes {
    Fixed(u32),
    /// Every size from the first to the last with equal weight.
    Uniform(u32, u32),
    /// Sizes with their weights.
    Weighted(Vec<(u32, u32)>),
}

impl Sizes {
    /// Parses `20`, `20..1024` or `20:90,1024:9,16384:1`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let help = "sizes are BYTES, FROM..TO, or BYTES:WEIGHT,BYTES:WEIGHT,…, at most 67108864";
        let size = |text: &str| match text.trim().parse::<u32>() {
            Ok(size) if size <= SIZE_MAX => Ok(size),
            _ => Err(format!("{text}: {help}")),
        };
        if let Some((from, to)) = text.split_once("..") {
            let (from, to) = (size(from)?, size(to.trim_start_matches('='))?);
            return if from <= to { Ok(Self::Uniform(from, to)) } else { Err(help.to_owned()) };
        }
        if !text.contains(':') {
            return size(text).map(Self::Fixed);
        }
        let mut found = Vec::new();
        for part in text.split(',') {
            let (bytes, weight) = part.split_once(':').ok_or(help)?;
            let weight: u32 = weight.trim().parse().map_err(|_| help.to_owned())?;
            found.push((size(bytes)?, weight));
        }
        if found.iter().all(|(_, weight)| *weight == 0) {
            return Err("at least one weight must be above 0".to_owned());
        }
        Ok(Self::Weighted(found))
    }

    /// The size at `share` (0 to 1) of the distribution.
    fn at(&self, share: f64) -> usize {
        match self {
            Self::Fixed(size) => *size as usize,
            Self::Uniform(from, to) => {
                let span = f64::from(to - from) + 1.0;
                (*from as usize + (share * span) as usize).min(*to as usize)
            }
            Self::Weighted(all) => {
                let total: f64 = all.iter().map(|(_, weight)| f64::from(*weight)).sum();
                let mut left = share * total;
                for (size, weight) in all {
                    left -= f64::from(*weight);
                    if left < 0.0 {
                        return *size as usize;
                    }
                }
                all.last().map_or(0, |(size, _)| *size as usize)
            }
        }
    }

    /// `count` sizes that follow the distribution, in its order.
    pub fn spread(&self, count: usize) -> Vec<usize> {
        (0..count).map(|i| self.at((i as f64 + 0.5) / count as f64)).collect()
    }

    /// The mean in bytes.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Fixed(size) => f64::from(*size),
            Self::Uniform(from, to) => f64::midpoint(f64::from(*from), f64::from(*to)),
            Self::Weighted(all) => {
                let total: f64 = all.iter().map(|(_, weight)| f64::from(*weight)).sum();
                all.iter().map(|(size, w)| f64::from(*size) * f64::from(*w)).sum::<f64>() / total
            }
        }
    }

    pub fn is_fixed(&self) -> bool {
        matches!(self, Self::Fixed(_))
    }

    /// Formats the sizes for people.
    pub fn text(&self) -> String {
        match self {
            Self::Fixed(size) => format!("{size} bytes"),
            Self::Uniform(from, to) => format!("{from} to {to} bytes"),
            Self::Weighted(all) => {
                let parts: Vec<String> = all.iter().map(|(s, w)| format!("{s}:{w}")).collect();
                format!("bytes by weight {}", parts.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_nonsense_is_refused() {
        assert_eq!(Sizes::parse("20"), Ok(Sizes::Fixed(20)));
        assert_eq!(Sizes::parse("20..1024"), Ok(Sizes::Uniform(20, 1024)));
        let weighted = Sizes::Weighted(vec![(20, 90), (1024, 9), (16_384, 1)]);
        assert_eq!(Sizes::parse("20:90,1024:9,16384:1"), Ok(weighted));
        for bad in ["", "x", "-1", "9..8", "67108865", "1:0", "1:1,2", "1:x", "..", "1,2"] {
            assert!(Sizes::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_spread_has_the_shares_of_its_weights_and_the_mean_of_its_range() {
        let weighted = Sizes::parse("20:90,1024:9,16384:1").unwrap();
        let spread = weighted.spread(1_000);
        let count = |size: usize| spread.iter().filter(|s| **s == size).count();
        assert_eq!((count(20), count(1024), count(16_384)), (900, 90, 10));
        let mean = spread.iter().sum::<usize>() as f64 / 1_000.0;
        assert!((mean - weighted.mean()).abs() < 1e-9, "{mean}");
        let uniform = Sizes::parse("20..1024").unwrap();
        let spread = uniform.spread(1_005);
        assert_eq!((spread[0], spread[1_004]), (20, 1024));
        assert!(spread.windows(2).all(|pair| pair[1] - pair[0] == 1), "each size once");
        assert!((uniform.mean() - 522.0).abs() < 1e-9);
    }
}
