/* Resolves a name as the C library does, connects to its first address at a port, and prints both and what the server
 * says first: resolve NAME PORT. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct addrinfo hints, *found;
    char text[64], said[64];
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    int error = argc == 3 ? getaddrinfo(argv[1], argv[2], &hints, &found) : EAI_FAIL;
    if (error) {
        fprintf(stderr, "%s\n", gai_strerror(error));
        return 1;
    }
    getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
    int fd = socket(found->ai_family, SOCK_STREAM, 0);
    if (connect(fd, found->ai_addr, found->ai_addrlen)) {
        perror("connect");
        return 2;
    }
    ssize_t length = read(fd, said, sizeof said);
    printf("%s %.*s\n", text, (int)(length < 0 ? 0 : length), said);
    return 0;
}
