//! HTTPS to the ACME server.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use axum::http::{Request, Response};
use bytes::{Bytes, BytesMut};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use super::AcmeError;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest request and answer. Certificate chains have some KiB.
const BODY_BYTES_MAX: usize = 1024 * 1024;

pub(super) struct Client(reqwest::Client);

impl Client {
    /// Trusts who everybody trusts, or with a file the certificates in that alone.
    pub(super) fn new(root: Option<&Path>) -> Result<Self, AcmeError> {
        let mut builder = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).https_only(true);
        if let Some(path) = root {
            let problem = |error: String| AcmeError::Root(format!("{}: {error}", path.display()));
            let pem = std::fs::read(path).map_err(|error| problem(error.to_string()))?;
            let roots =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| problem(error.to_string()))?;
            builder = builder.tls_certs_only(roots);
        }
        builder.build().map(Self).map_err(|error| AcmeError::Root(error.to_string()))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move { send(client, request).await.map_err(Error::Other) })
    }
}

async fn send(
    client: reqwest::Client,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(axum::body::Body::new(body), BODY_BYTES_MAX).await?;
    let request = client.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
    let mut answer = request.send().await?;
    let mut response = Response::new(());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err("the answer is too long".into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(BytesResponse { parts: response.into_parts().0, body: Box::new(body.freeze()) })
}
