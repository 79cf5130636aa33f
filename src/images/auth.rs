//! The credentials of a pull, and the hosts that may get them.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use super::Error;
use crate::api::v1::AuthConfig;
use crate::containerd::Login;

/// Docker writes padding; some credential helpers do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Largest credentials, in bytes: a Secret of Kubernetes has at most 1 MiB. They are held in memory during the pull.
const LARGEST: usize = 1 << 20;

/// The credentials that a pull may send to a registry. Has no Debug, since it is a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Credentials {
    secret: Secret,
    /// The only host that may get them; `None` means the reference's host and its mirrors.
    server: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Secret {
    Password { username: String, password: String },
    IdentityToken(String),
}

impl Credentials {
    /// `None` for an anonymous pull. User name and password take precedence over the identity token, and that over
    /// `auth`, as in containerd.
    ///
    /// # Errors
    /// [`Error::Invalid`] for credentials that cannot be used; its text never contains a value of them.
    pub(super) fn from_config(config: Option<&AuthConfig>) -> Result<Option<Self>, Error> {
        let Some(config) = config else { return Ok(None) };
        let AuthConfig { username, password, auth, server_address, identity_token, registry_token } = config;
        let all = [username, password, auth, server_address, identity_token, registry_token].map(String::len);
        let length: usize = all.iter().sum();
        if length > LARGEST {
            let reason = format!("has {length} bytes, more than {LARGEST}");
            return Err(Error::Invalid { field: "auth", reason });
        }
        let secret = if !config.username.is_empty() {
            Secret::Password { username: config.username.clone(), password: config.password.clone() }
        } else if !config.identity_token.is_empty() {
            Secret::IdentityToken(config.identity_token.clone())
        } else if !config.auth.is_empty() {
            decode(&config.auth)?
        } else if !config.registry_token.is_empty() {
            // Transfer reads only the user and secret of our response: it would silently drop a bearer token, and the
            // pull would continue anonymously.
            let reason = "a bearer token cannot be handed to containerd's Transfer service; use identity_token";
            return Err(Error::Invalid { field: "auth.registry_token", reason: reason.to_owned() });
        } else {
            return Ok(None);
        };
        let server = host_of(&config.server_address);
        Ok(Some(Self { secret, server }))
    }

    /// The login for `host`; `allowed` are the reference's host and its configured mirrors.
    pub(super) fn login(&self, host: &str, allowed: &[String]) -> Login {
        let host = canonical(host);
        let known = allowed.iter().any(|other| canonical(other) == host);
        let meant = self.server.as_deref().is_none_or(|server| canonical(server) == host);
        if !known || !meant {
            return Login::Anonymous;
        }
        match &self.secret {
            Secret::Password { username, password } => {
                Login::Password { username: username.clone(), password: password.clone() }
            }
            Secret::IdentityToken(token) => Login::IdentityToken(token.clone()),
        }
    }

    /// The text without the secret, in case a registry has echoed it in its error.
    pub(super) fn redact(&self, text: &str) -> String {
        let secret = match &self.secret {
            Secret::Password { password, .. } => password,
            Secret::IdentityToken(token) => token,
        };
        // Redacting a secret of a few letters would garble the message, and reveal the secret.
        if secret.len() < 4 { text.to_owned() } else { text.replace(secret.as_str(), "[redacted]") }
    }
}

fn decode(auth: &str) -> Result<Secret, Error> {
    let refuse = || Error::Invalid { field: "auth.auth", reason: "not base64 of user:password".to_owned() };
    let decoded = BASE64.decode(auth.trim()).map_err(|_| refuse())?;
    let text = String::from_utf8(decoded).map_err(|_| refuse())?;
    let (username, password) = text.split_once(':').ok_or_else(refuse)?;
    let password = password.trim_matches('\0').to_owned();
    Ok(Secret::Password { username: username.to_owned(), password })
}

/// The host of an address: `https://index.docker.io/v1/` is `index.docker.io`.
fn host_of(address: &str) -> Option<String> {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    (!host.is_empty()).then(|| host.to_owned())
}

/// One spelling for each host: Docker Hub has three names.
fn canonical(host: &str) -> String {
    match host {
        "registry-1.docker.io" | "index.docker.io" => "docker.io".to_owned(),
        other => other.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(config: &AuthConfig, host: &str, allowed: &[&str]) -> String {
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        match Credentials::from_config(Some(config)).map(|c| c.map(|c| c.login(host, &allowed))) {
            Ok(Some(Login::Password { username, password })) => format!("{username}:{password}"),
            Ok(Some(Login::IdentityToken(token))) => format!("token {token}"),
            Ok(Some(Login::Anonymous) | None) => "nobody".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    fn user() -> AuthConfig {
        AuthConfig { username: "u".to_owned(), password: "p".to_owned(), ..AuthConfig::default() }
    }

    #[test]
    fn credentials_are_no_larger_than_a_secret_of_kubernetes() {
        let large = AuthConfig { identity_token: "x".repeat(1 << 20), ..AuthConfig::default() };
        assert_eq!(who(&large, "r", &["r"]).len(), "token ".len() + (1 << 20));
        let larger = AuthConfig { registry_token: "x".to_owned(), ..large };
        assert_eq!(who(&larger, "r", &["r"]), "auth: has 1048577 bytes, more than 1048576");
    }

    #[test]
    fn the_order_is_password_then_token_then_auth() {
        let all = AuthConfig { auth: "YTpi".to_owned(), identity_token: "t".to_owned(), ..user() };
        assert_eq!(who(&all, "r", &["r"]), "u:p");
        let two = AuthConfig { username: String::new(), ..all };
        assert_eq!(who(&two, "r", &["r"]), "token t");
        let one = AuthConfig { identity_token: String::new(), ..two };
        assert_eq!(who(&one, "r", &["r"]), "a:b");
        assert_eq!(who(&AuthConfig::default(), "r", &["r"]), "nobody");
    }

    #[test]
    fn no_other_host_gets_them() {
        assert_eq!(who(&user(), "evil.example", &["r.example", "mirror.example"]), "nobody");
        assert_eq!(who(&user(), "mirror.example", &["r.example", "mirror.example"]), "u:p");
        assert_eq!(who(&user(), "registry-1.docker.io", &["docker.io"]), "u:p");
    }

    #[test]
    fn a_server_address_is_the_only_host() {
        let hub = AuthConfig { server_address: "https://index.docker.io/v1/".to_owned(), ..user() };
        assert_eq!(who(&hub, "registry-1.docker.io", &["docker.io"]), "u:p");
        assert_eq!(who(&hub, "r.example", &["r.example"]), "nobody");
        let bare = AuthConfig { server_address: "r.example:5000".to_owned(), ..user() };
        assert_eq!(who(&bare, "r.example:5000", &["r.example:5000"]), "u:p");
    }

    #[test]
    fn what_cannot_be_used_is_named_and_not_shown() {
        let token = AuthConfig { registry_token: "SECRET".to_owned(), ..AuthConfig::default() };
        let error = who(&token, "r", &["r"]);
        assert!(error.starts_with("auth.registry_token: ") && !error.contains("SECRET"), "{error}");
        for auth in ["!!!", "bm9jb2xvbg=="] {
            let error = who(&AuthConfig { auth: auth.to_owned(), ..AuthConfig::default() }, "r", &["r"]);
            assert!(error.starts_with("auth.auth: ") && !error.contains(auth), "{error}");
        }
    }

    #[test]
    fn an_echoed_secret_is_taken_out() {
        let config = AuthConfig { password: "hunter22".to_owned(), ..user() };
        let credentials = Credentials::from_config(Some(&config)).unwrap().unwrap();
        assert_eq!(credentials.redact("no hunter22 here"), "no [redacted] here");
    }
}
