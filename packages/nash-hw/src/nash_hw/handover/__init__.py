"""What is handed to FINN and Vivado - RTL, C++, a build folder - and what comes back."""
