"""The loopback proxy: RMCP+ on 127.0.0.1 in front of the driver."""
