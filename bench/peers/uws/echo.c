/* Echo on uWebSockets, through the C interface that libsocketify exports; see build.sh.
 * Settings as in uWebSockets' own EchoServer example where they are not limits: no compression, the
 * largest message and the back-pressure allowed raised to what the comparison sends. Echoes inside
 * one readiness leave together, since the library corks its socket during the callbacks. */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The declarations the interface has no installed header for. */
typedef struct uws_app uws_app;
typedef struct uws_websocket uws_websocket;
typedef int uws_opcode;

struct context_options {
    const char *key_file, *cert_file, *passphrase, *dh_params_file, *ca_file, *ciphers;
    int prefer_low_memory;
};

struct listen_config {
    int port;
    const char *host;
    int options;
};

typedef void (*websocket_handler)(uws_websocket *, void *);
typedef void (*message_handler)(uws_websocket *, const char *, size_t, uws_opcode, void *);
typedef void (*close_handler)(uws_websocket *, int, const char *, size_t, void *);
typedef void (*listen_handler)(void *, struct listen_config, void *);

struct behavior {
    int compression;
    unsigned int max_payload_bytes;
    unsigned short idle_timeout_s;
    unsigned int max_backpressure_bytes;
    bool close_on_backpressure;
    bool reset_idle_timeout_on_send;
    bool send_pings;
    unsigned short max_lifetime_min;
    void *upgrade;
    websocket_handler open;
    message_handler message;
    websocket_handler drain;
    void *ping, *pong;
    close_handler close;
    void *subscription;
};

uws_app *uws_create_app(int ssl, struct context_options options);
void uws_ws(int ssl, uws_app *app, const char *pattern, struct behavior behavior, void *data);
int uws_ws_send(int ssl, uws_websocket *ws, const char *message, size_t length, uws_opcode opcode);
void uws_app_listen_with_config(int ssl, uws_app *app, struct listen_config config,
                                listen_handler handler, void *data);
void uws_app_run(int ssl, uws_app *app);

static void on_open(uws_websocket *ws, void *data) { (void)ws, (void)data; }
static void on_close(uws_websocket *ws, int code, const char *reason, size_t length, void *data) {
    (void)ws, (void)code, (void)reason, (void)length, (void)data;
}

static void on_message(uws_websocket *ws, const char *message, size_t length, uws_opcode opcode,
                       void *data) {
    (void)data;
    uws_ws_send(0, ws, message, length, opcode);
}

static void on_listen(void *listening, struct listen_config config, void *data) {
    (void)data;
    if (!listening) {
        fprintf(stderr, "cannot listen on port %d\n", config.port);
        exit(1);
    }
}

int main(int argc, char **argv) {
    char *colon = argc == 2 ? strrchr(argv[1], ':') : NULL;
    if (!colon) {
        fprintf(stderr, "one argument: the ADDR:PORT to listen on\n");
        return 2;
    }
    *colon = 0;
    uws_app *app = uws_create_app(0, (struct context_options){0});
    struct behavior echo = {
        .max_payload_bytes = 16 << 20,
        .idle_timeout_s = 120,
        .max_backpressure_bytes = 64 << 20,
        .send_pings = true,
        .open = on_open,
        .message = on_message,
        .close = on_close,
    };
    uws_ws(0, app, "/*", echo, NULL);
    struct listen_config config = {atoi(colon + 1), argv[1], 1};
    uws_app_listen_with_config(0, app, config, on_listen, NULL);
    uws_app_run(0, app);
    return 0;
}
