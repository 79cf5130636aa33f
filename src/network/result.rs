//! Reads the addresses for the sandbox's status from a chain's result.

use std::net::IpAddr;

use serde_json::Value;

use super::error::Error;

/// The outcome of attaching a sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Attached {
    /// The sandbox's addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// The last plugin's result as it was printed.
    pub result: Value,
}

/// Which address is the primary one (containerd's `ip_pref`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpPreference {
    /// The first IPv4 address.
    #[default]
    Ipv4,
    /// The first IPv6 address.
    Ipv6,
    /// The first address in the result.
    Cni,
}

impl IpPreference {
    /// Moves the primary address to the front; the others keep their order.
    pub(super) fn sort(self, mut ips: Vec<IpAddr>) -> Vec<IpAddr> {
        let primary = match self {
            Self::Ipv4 => ips.iter().position(IpAddr::is_ipv4),
            Self::Ipv6 => ips.iter().position(IpAddr::is_ipv6),
            Self::Cni => None,
        };
        if let Some(primary) = primary {
            ips[..=primary].rotate_right(1);
        }
        ips
    }
}

impl Attached {
    /// Reads the addresses of `interface` in the sandbox.
    pub(super) fn new(result: Value, interface: &str, preference: IpPreference) -> Result<Self, Error> {
        let ips = preference.sort(addresses(&result, interface)?);
        Ok(Self { ips, result })
    }
}

fn addresses(result: &Value, interface: &str) -> Result<Vec<IpAddr>, Error> {
    let mut inside = Vec::new();
    let mut by_name = Vec::new();
    for entry in array(result, "ips")? {
        let ip = address(entry.get("address"))?;
        match owner(result, entry)? {
            // No index: the plugin created no interface, or only this one.
            None => inside.push(ip),
            Some(owner) if owner.get("name").and_then(Value::as_str) == Some(interface) => {
                let sandbox = owner.get("sandbox").and_then(Value::as_str).unwrap_or_default();
                (if sandbox.is_empty() { &mut by_name } else { &mut inside }).push(ip);
            }
            Some(_) => {}
        }
    }
    // Specs 0.1 and 0.2 have one address per family.
    for old in ["ip4", "ip6"] {
        if let Some(entry) = result.get(old) {
            inside.push(address(entry.get("ip"))?);
        }
    }
    // Some plugins do not state which interfaces are in the sandbox; containerd goes by the name.
    Ok(if inside.is_empty() { by_name } else { inside })
}

fn array<'a>(result: &'a Value, key: &str) -> Result<&'a [Value], Error> {
    match result.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(all)) => Ok(all),
        Some(_) => Err(Error::InvalidResult(format!("{key} is not a list"))),
    }
}

/// The interface that an entry of `ips` refers to.
fn owner<'a>(result: &'a Value, entry: &Value) -> Result<Option<&'a Value>, Error> {
    let index = match entry.get("interface") {
        None | Some(Value::Null) => return Ok(None),
        Some(index) => index.as_u64().and_then(|index| usize::try_from(index).ok()),
    };
    let interfaces = array(result, "interfaces")?;
    let found = index.and_then(|index| interfaces.get(index));
    let missing = || Error::InvalidResult("an address refers to an interface that does not exist".to_owned());
    found.map(Some).ok_or_else(missing)
}

/// Parses an address with its prefix length, such as `10.1.2.3/24`.
fn address(value: Option<&Value>) -> Result<IpAddr, Error> {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    let ip = text.split_once('/').and_then(|(ip, prefix)| {
        let ip: IpAddr = ip.parse().ok()?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        (prefix.parse::<u8>().ok()? <= most).then_some(ip)
    });
    ip.ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        Error::InvalidResult(format!("{shown:?} is not an address with a prefix length"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ips(result: &Value, preference: IpPreference) -> Vec<String> {
        let attached = Attached::new(result.clone(), "eth0", preference).unwrap();
        attached.ips.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_those_of_eth0_in_the_sandbox() {
        let result = json!({
            "interfaces": [{"name": "eth0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/n"}, {"name": "eth1", "sandbox": "/n"}],
            "ips": [
                {"address": "192.0.2.1/24", "interface": 0}, {"address": "192.0.2.2/24", "interface": 1},
                {"address": "10.0.0.5/24", "interface": 2}, {"address": "10.0.0.6/24", "interface": 3},
                {"address": "fd00::5/64", "interface": 2}, {"address": "10.0.0.7/24"},
            ],
        });
        assert_eq!(ips(&result, IpPreference::Cni), ["10.0.0.5", "fd00::5", "10.0.0.7"]);
    }

    #[test]
    fn the_preferred_family_comes_first_and_the_rest_stays_in_order() {
        let result = json!({"ips": [
            {"address": "fd00::1/64"}, {"address": "fd00::2/64"}, {"address": "10.0.0.1/8"}, {"address": "10.0.0.2/8"},
        ]});
        assert_eq!(ips(&result, IpPreference::Ipv4), ["10.0.0.1", "fd00::1", "fd00::2", "10.0.0.2"]);
        assert_eq!(ips(&result, IpPreference::Ipv6), ["fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(ips(&result, IpPreference::Cni)[0], "fd00::1");
    }

    #[test]
    fn results_without_sandbox_or_interfaces_are_read_too() {
        let unsaid = json!({"interfaces": [{"name": "eth0"}], "ips": [{"address": "10.0.0.1/8", "interface": 0}]});
        assert_eq!(ips(&unsaid, IpPreference::Ipv4), ["10.0.0.1"]);
        let old = json!({"ip4": {"ip": "10.0.0.2/8"}, "ip6": {"ip": "fd00::2/64"}});
        assert_eq!(ips(&old, IpPreference::Ipv4), ["10.0.0.2", "fd00::2"]);
        assert!(ips(&json!({}), IpPreference::Ipv4).is_empty());
    }

    #[test]
    fn a_result_that_makes_no_sense_is_refused() {
        for result in [
            json!({"ips": [{"address": "10.0.0.1/8", "interface": 0}]}),
            json!({"ips": [{"address": "10.0.0.1/8", "interface": -1}], "interfaces": [{"name": "eth0"}]}),
            json!({"ips": [{"address": "10.0.0.1/33"}]}),
            json!({"ips": [{"address": "10.0.0.1"}]}),
            json!({"ips": [{}]}),
            json!({"ips": {}}),
        ] {
            assert!(Attached::new(result.clone(), "eth0", IpPreference::Cni).is_err(), "{result}");
        }
    }
}
