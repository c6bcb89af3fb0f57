"""What every web server of nextvec needs: access control and the socket that it listens on."""
