//! TCP statistics of a connection: a part of `TCP_INFO`, tcp(7).

use std::os::fd::{AsRawFd, BorrowedFd};

/// The state of a connection as TCP sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TcpInfo {
    /// Smoothed round-trip time, and its variation (µs).
    pub rtt_us: u32,
    pub rtt_variance_us: u32,
    /// Retransmission timeout (µs).
    pub retransmit_timeout_us: u32,
    /// Segments retransmitted since the connection began.
    pub retransmits: u32,
    /// Segments in flight, and those of them that are presumed lost.
    pub unacknowledged: u32,
    pub lost: u32,
    /// Congestion window (segments).
    pub congestion_window: u32,
    /// Bytes of a sent segment at most.
    pub segment_bytes: u32,
    /// Time since data was last sent, and received (ms).
    pub last_sent_ms: u32,
    pub last_received_ms: u32,
    /// Time since the peer's last acknowledgement (ms).
    #[serde(skip)]
    pub last_acknowledged_ms: u32,
    /// Bytes that the peer has acknowledged since the connection began.
    #[serde(skip)]
    pub acknowledged_bytes: u64,
    /// The peer's receive window (bytes).
    #[serde(skip)]
    pub window_bytes: u32,
}

impl TcpInfo {
    /// Reads the statistics from the kernel.
    ///
    /// # Errors
    /// An errno, if the descriptor is not a TCP socket.
    pub(super) fn read(descriptor: BorrowedFd<'_>) -> Result<Self, i32> {
        // SAFETY: all-zero is a valid structure of numbers.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, which the structure has.
        let result = unsafe {
            libc::getsockopt(
                descriptor.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut len,
            )
        };
        if result != 0 {
            return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
        }
        Ok(Self {
            rtt_us: info.tcpi_rtt,
            rtt_variance_us: info.tcpi_rttvar,
            retransmit_timeout_us: info.tcpi_rto,
            retransmits: info.tcpi_total_retrans,
            unacknowledged: info.tcpi_unacked,
            lost: info.tcpi_lost,
            congestion_window: info.tcpi_snd_cwnd,
            segment_bytes: info.tcpi_snd_mss,
            last_sent_ms: info.tcpi_last_data_sent,
            last_received_ms: info.tcpi_last_data_recv,
            last_acknowledged_ms: info.tcpi_last_ack_recv,
            acknowledged_bytes: info.tcpi_bytes_acked,
            window_bytes: info.tcpi_snd_wnd,
        })
    }
}
