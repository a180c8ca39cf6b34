"""What BasicSR lacks in metrics: faster PSNR and SSIM of equal value, EDSR's PSNR, and temporal metrics for clips."""
