//! The `OpenAPI` 3.1 description of the API, for generated clients and testers.

use axum::http::header;
use axum::response::IntoResponse;

/// Written by hand; a test and generated requests compare it with the routes.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /v1/openapi.json`.
pub(super) async fn get_document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_described() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let sources = [include_str!("mod.rs"), include_str!("../mod.rs")];
        let routed: Vec<(&str, &str)> = sources
            .iter()
            .flat_map(|source| source.lines())
            .filter_map(|line| {
                let call = line.trim().strip_prefix(".route(\"")?;
                let (path, rest) = call.split_once("\", json_call(")?;
                Some((path, rest.split('(').next()?))
            })
            .filter(|(path, _)| path.starts_with("/v1/"))
            .collect();
        assert!(routed.len() >= 19, "{routed:?}");
        for (path, method) in routed {
            let described = &document["paths"][path][method];
            assert!(described["operationId"].is_string(), "{method} {path} is not described");
        }
    }
}
