//! Browser and operating system from the header `User-Agent`, as far as they decide about codecs.

use zynk_protocol::livekit;

/// Fills in what the client did not say about itself.
pub(super) fn complete(client: &mut livekit::ClientInfo, user_agent: &str) {
    if client.browser.is_empty()
        && let Some((browser, version)) = browser(user_agent)
    {
        browser.clone_into(&mut client.browser);
        version.clone_into(&mut client.browser_version);
    }
    if client.os.is_empty() {
        os(user_agent).clone_into(&mut client.os);
    }
}

/// Browsers name themselves and those that they resemble; the most particular name counts.
fn browser(user_agent: &str) -> Option<(&'static str, &str)> {
    const NAMES: [(&str, &str); 7] = [
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Safari"),
        ("CriOS/", "Safari"),
        ("Chrome/", "Chrome"),
        ("Version/", "Safari"),
    ];
    NAMES.iter().find_map(|(mark, name)| {
        let (_, rest) = user_agent.split_once(mark)?;
        if *name == "Safari" && !user_agent.contains("Safari/") {
            return None;
        }
        let version = rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default();
        Some((*name, version))
    })
}

fn os(user_agent: &str) -> &'static str {
    const NAMES: [(&str, &str); 6] = [
        ("Android", "Android"),
        ("iPhone", "iOS"),
        ("iPad", "iOS"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("Linux", "Linux"),
    ];
    NAMES.iter().find(|(mark, _)| user_agent.contains(mark)).map_or("", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(user_agent: &str) -> (String, String, String) {
        let mut client = livekit::ClientInfo::default();
        complete(&mut client, user_agent);
        (client.browser, client.browser_version, client.os)
    }

    #[test]
    fn browsers_are_told_apart() {
        let safari = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.4 Safari/605.1.15";
        assert_eq!(of(safari), ("Safari".into(), "18.4".into(), "macOS".into()));
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
        assert_eq!(of(firefox), ("Firefox".into(), "140.0".into(), "Linux".into()));
        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36";
        assert_eq!(of(chrome).0, "Chrome");
        assert_eq!(of(""), (String::new(), String::new(), String::new()));
    }

    #[test]
    fn what_the_client_says_counts() {
        let mut client = livekit::ClientInfo { browser: "X".into(), os: "Y".into(), ..Default::default() };
        complete(&mut client, "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0");
        assert_eq!((client.browser.as_str(), client.os.as_str()), ("X", "Y"));
    }
}
