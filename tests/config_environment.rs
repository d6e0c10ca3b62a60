//! Variables of the environment: which ones are options, which are mistakes, and which belong to
//! others.

use seawall::config::{Given, Written};

#[test]
fn unknown_variables_are_refused_and_those_of_kubernetes_are_not() {
    let variable = |name: &str| Given {
        environment: vec![(name.to_owned(), "tcp://10.0.0.1:80".to_owned())],
        ..Given::default()
    };
    let fault = Written::new(&variable("SEAWALL_SHARD")).unwrap_err().to_string();
    assert!(fault.contains("SEAWALL_SHARD;") && fault.contains("SEAWALL_SHARDS"), "{fault}");
    for name in ["SEAWALLS", "X", "SEAWALL_CONFIG", "SEAWALL_API_KEY"] {
        Written::new(&variable(name)).unwrap();
    }
}

/// Kubernetes sets these in each container, for every service of the namespace; images set others.
#[test]
fn variables_of_services_and_images_are_ignored() {
    let loads = |name: &str, value: &str| {
        let environment = vec![(name.to_owned(), value.to_owned())];
        Written::new(&Given { environment, ..Given::default() }).is_ok()
    };
    for service in ["", "_METRICS", "_ADMIN", "_ADMIN_V2", "_LIMITS", "_WS", "_SHARDS_80"] {
        for (variable, value) in [
            ("SERVICE_HOST", "10.96.0.7"),
            ("SERVICE_PORT", "9100"),
            ("SERVICE_PORT_HTTP", "9100"),
            ("SERVICE_PORT_HTTP_METRICS", "9100"),
            ("PORT", "tcp://10.96.0.7:9100"),
            ("PORT", "udp://10.96.0.7:53"),
            ("PORT_9100_TCP", "tcp://10.96.0.7:9100"),
            ("PORT_9100_TCP_ADDR", "10.96.0.7"),
            ("PORT_9100_TCP_PORT", "9100"),
            ("PORT_53_UDP_PROTO", "udp"),
        ] {
            let name = format!("SEAWALL{service}_{variable}");
            assert!(loads(&name, value), "{name}");
        }
    }
    for name in [
        "SEAWALL_VERSION",
        "SEAWALL_COMMIT",
        "SEAWALL_GIT_COMMIT",
        "SEAWALL_IMAGE_TAG",
        "SEAWALL_SHA256",
        "SEAWALL_BUILD_DATE",
        "SEAWALL_HOME",
    ] {
        assert!(loads(name, "1.2.3"), "{name}");
    }
    for (name, value) in [
        ("SEAWALL_PORT", "9000"),
        ("SEAWALL_ADMIN_PORT", "9100"),
        ("SEAWALL_PORT_HTTP", "9100"),
        ("SEAWALL_PORT_99999_TCP", "x"),
        ("SEAWALL_SERVICE", "x"),
        ("SEAWALL_SHARD", "2"),
        ("SEAWALL_VERSIONS", "1"),
    ] {
        assert!(!loads(name, value), "{name} is a mistake");
    }
}
