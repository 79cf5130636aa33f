//! The bandwidth annotations of a pod: Kubernetes quantities in bits per second.

use std::collections::HashMap;

/// Annotation with the limit for received traffic.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
/// Annotation with the limit for sent traffic.
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// The range that Kubernetes considers reasonable (pkg/util/bandwidth/utils.go): 1k to 1P.
const REASONABLE: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
/// More digits than a reasonable value needs; with at most so many, nothing below overflows 128 bits.
const MOST_DIGITS: usize = 18;

/// Limits in bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Limit for traffic that the sandbox receives.
    pub ingress: Option<u64>,
    /// Limit for traffic that the sandbox sends.
    pub egress: Option<u64>,
}

/// An annotation that is not a valid limit.
#[derive(Debug, Clone, thiserror::Error)]
#[error("config.annotations[{annotation}]: {value:?} is {reason}")]
pub struct InvalidBandwidth {
    annotation: &'static str,
    value: String,
    reason: &'static str,
}

impl Bandwidth {
    /// Reads the limits from a pod's annotations; `None` when it has none.
    ///
    /// # Errors
    /// [`InvalidBandwidth`] for a value that is not a quantity, is below 1k or is above 1P.
    pub fn from_annotations(annotations: &HashMap<String, String>) -> Result<Option<Self>, InvalidBandwidth> {
        let limit = |annotation: &'static str| {
            annotations.get(annotation).map(|value| reasonable(annotation, value)).transpose()
        };
        let bandwidth = Self { ingress: limit(INGRESS)?, egress: limit(EGRESS)? };
        Ok((bandwidth != Self::default()).then_some(bandwidth))
    }
}

fn reasonable(annotation: &'static str, text: &str) -> Result<u64, InvalidBandwidth> {
    let invalid = |reason| InvalidBandwidth { annotation, value: text.chars().take(64).collect(), reason };
    let value = quantity(text).ok_or_else(|| invalid("no quantity"))?;
    if value < i128::from(*REASONABLE.start()) {
        return Err(invalid("unreasonably small (< 1kbit)"));
    }
    u64::try_from(value)
        .ok()
        .filter(|value| REASONABLE.contains(value))
        .ok_or_else(|| invalid("unreasonably large (> 1Pbit)"))
}

/// Parses a quantity like apimachinery's resource.ParseQuantity, rounded up to a whole number.
fn quantity(text: &str) -> Option<i128> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let number_ends = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(number_ends);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > MOST_DIGITS || fraction.contains('.') {
        return None;
    }
    let (factor, divisor) = scale(suffix)?;
    let divisor = divisor * 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let scaled = digits.parse::<i128>().ok()?.checked_mul(factor)?;
    // Rounds away from zero, as Quantity.Value() does.
    let value = scaled / divisor + i128::from(scaled % divisor != 0);
    Some(if negative { -value } else { value })
}

/// Factor and divisor of a suffix.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    const DECIMAL: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const SMALL: [&str; 4] = ["", "m", "u", "n"];
    let power = |names: &[&str], base: i128| {
        let place = names.iter().position(|name| *name == suffix)?;
        Some(base.pow(u32::try_from(place).ok()?))
    };
    if let Some(factor) = power(&DECIMAL, 1000).or_else(|| power(&BINARY, 1024)) {
        return Some((factor, 1));
    }
    if let Some(divisor) = power(&SMALL, 1000) {
        return Some((1, divisor));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    // A larger exponent puts a value of so few digits out of range in any case.
    let size = 10_i128.pow(exponent.unsigned_abs().min(18));
    Some(if exponent < 0 { (1, size) } else { (size, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, value) in [
            ("10M", 10_000_000),
            ("1.5k", 1500),
            ("1Ki", 1024),
            ("2Gi", 2 << 30),
            ("1e6", 1_000_000),
            ("5E3", 5000),
            ("2E", 2_000_000_000_000_000_000),
            ("1500m", 2),
            ("+7", 7),
            ("-3", -3),
            (".5k", 500),
            ("0.0001", 1),
        ] {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for text in ["", "M", "10 M", "10Mb", "1.2.3", "0x10", "1e", "ten", "1k1", "--1", "99999999999999999999"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    #[test]
    fn an_unreasonable_limit_names_its_annotation() {
        for value in ["999", "0", "-5M", "2P", "9E", "fast"] {
            let annotations = HashMap::from([(EGRESS.to_owned(), value.to_owned())]);
            let error = Bandwidth::from_annotations(&annotations).unwrap_err().to_string();
            assert!(error.contains(EGRESS) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn only_what_is_annotated_is_limited() {
        assert_eq!(Bandwidth::from_annotations(&HashMap::new()).unwrap(), None);
        let annotations = HashMap::from([(INGRESS.to_owned(), "1M".to_owned())]);
        let expected = Bandwidth { ingress: Some(1_000_000), egress: None };
        assert_eq!(Bandwidth::from_annotations(&annotations).unwrap(), Some(expected));
    }
}
