"""Pictures and pages of what was measured: training curves, PSNR against run time, crops, and one HTML page."""
