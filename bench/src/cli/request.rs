//! Arguments that extend the upgrade request.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::crew::Failure;
use crate::upgrade::Extras;

/// Headers, subprotocol and tokens.
#[derive(Debug, Default, Args)]
pub struct RequestArgs {
    /// Add this header to each upgrade request; may be repeated
    #[arg(
        long = "header",
        help_heading = "Request",
        value_name = "NAME: VALUE",
        value_parser = header
    )]
    pub headers: Vec<String>,
    /// Offer this subprotocol
    #[arg(long, help_heading = "Request", value_name = "NAME", value_parser = word)]
    pub subprotocol: Option<String>,
    /// Send this token as `Authorization: Bearer`; if repeated, connections use the tokens in turn
    #[arg(long = "token", help_heading = "Request", value_name = "TOKEN", value_parser = word)]
    pub tokens: Vec<String>,
    /// Read tokens from a file, one per line: connection 1 uses the first, and so on, in turn
    #[arg(long, help_heading = "Request", value_name = "FILE", conflicts_with = "tokens")]
    pub token_file: Option<PathBuf>,
}

impl RequestArgs {
    /// Reads the file of tokens, if there is one.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is not a token.
    pub fn extras(&self) -> Result<Extras, Failure> {
        let tokens = match &self.token_file {
            Some(path) => read_tokens(path).map_err(Failure::Usage)?,
            None => self.tokens.clone(),
        };
        let (headers, protocol) = (self.headers.clone(), self.subprotocol.clone());
        Ok(Extras { headers, protocol, tokens })
    }
}

fn read_tokens(path: &Path) -> Result<Vec<String>, String> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("--token-file {shown}: {error}"))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let tokens = lines.map(word).collect::<Result<Vec<_>, _>>();
    let tokens = tokens.map_err(|error| format!("--token-file {shown}: {error}"))?;
    if tokens.is_empty() {
        return Err(format!("--token-file {shown}: has no tokens; write one per line"));
    }
    Ok(tokens)
}

/// Parses a header line (RFC 9110 5).
fn header(text: &str) -> Result<String, String> {
    let (name, value) = text.split_once(':').ok_or("must be NAME: VALUE")?;
    let is_name = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    let value = value.trim();
    if !is_name || value.bytes().any(|byte| byte < b' ' && byte != b'\t') {
        return Err("must be NAME: VALUE, without control characters".to_owned());
    }
    Ok(format!("{name}: {value}"))
}

/// Visible characters without spaces.
fn word(text: &str) -> Result<String, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("must be visible ASCII characters without spaces".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_words_cannot_break_the_request() {
        assert_eq!(header("X-Tenant:  a b ").unwrap(), "X-Tenant: a b");
        for bad in ["", "a", ": b", "a b: c", "a: b\r\nc: d"] {
            assert!(header(bad).is_err(), "{bad}");
        }
        assert!(word("a.b-c_d").is_ok());
        for bad in ["", "a b", "a\r\nb", "é"] {
            assert!(word(bad).is_err(), "{bad}");
        }
    }
}
