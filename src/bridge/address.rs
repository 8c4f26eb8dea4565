//! What the address of a node looks like.

use std::net::Ipv6Addr;

/// Where a node listens unless it is told otherwise.
pub(crate) const PORT: u16 = 19_001;

/// `HOST:PORT`, with the default port where none is given. Whether there is such a host is not asked.
///
/// # Errors
///
/// What is wrong with it, in words.
pub(crate) fn complete(address: &str) -> Result<String, String> {
    let wrong = |why: &str| {
        Err(format!(
            "`{address}` is no address of a node, because {why}; it has the form HOST or HOST:PORT, or [IPV6]:PORT"
        ))
    };
    if address.is_empty() {
        return wrong("it is empty");
    }
    if address.contains("//") {
        return wrong("it is a URL");
    }
    if address.parse::<Ipv6Addr>().is_ok() {
        return Ok(format!("[{address}]:{PORT}"));
    }
    // The colons of an IPv6 address are in brackets.
    let (host, rest) = match address.find(']') {
        Some(end) if address.starts_with('[') => address.split_at(end + 1),
        _ => address.split_at(address.find(':').unwrap_or(address.len())),
    };
    if host.is_empty() {
        return wrong("it names no host");
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return wrong("no host has such a name");
    }
    match rest.strip_prefix(':') {
        Some(port) if port.parse::<u16>().is_ok() => Ok(address.to_owned()),
        Some(port) => wrong(&format!("`{port}` is no port")),
        None if rest.is_empty() => Ok(format!("{host}:{PORT}")),
        None => wrong(&format!("`{rest}` is no port")),
    }
}

#[cfg(test)]
mod tests {
    use super::complete;

    #[test]
    fn a_port_that_is_missing_is_the_default_one() {
        for (given, meant) in [
            ("node", "node:19001"),
            ("node:7", "node:7"),
            ("127.0.0.1", "127.0.0.1:19001"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]", "[::1]:19001"),
            ("[::1]:7", "[::1]:7"),
            ("::1", "[::1]:19001"),
            ("::", "[::]:19001"),
        ] {
            assert_eq!(complete(given).as_deref(), Ok(meant));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (given, why) in [
            ("", "it is empty"),
            (":19001", "names no host"),
            ("node:", "`` is no port"),
            ("node:http", "`http` is no port"),
            ("node:65536", "`65536` is no port"),
            ("http://node:7", "it is a URL"),
            ("[::1]7", "`7` is no port"),
            ("a node", "no host has such a name"),
        ] {
            let error = complete(given).unwrap_err();
            assert!(error.contains(why) && error.contains("HOST:PORT"), "{given}: {error}");
        }
    }
}
